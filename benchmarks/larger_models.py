"""SD1.5, SDXL, SD3 and Flux at their true shapes: what fits where, and what an audit of 5,000 pictures takes.

    python benchmarks/larger_models.py [--models sd15 sdxl sd3 flux] [--tables-only]

The tables are computed: denoisers of the published configurations on the meta device give sites, channels and
weights; the store's own layout gives its bytes; and a pass of fake tensors, which have shapes but no memory, gives
the largest sum of live activations (kernels' workspaces and the allocator's gaps come on top).

Then each denoiser runs: random bfloat16 weights, small latents, a recorder and a steered autoencoder at its site.
SD1.5, SDXL and SD3 run whole, one at a time (6 GB at most); Flux, 24 GB, runs with one of its 19 double and one of
its 38 single blocks. Edits of strength 0 must leave the output bit-equal.
"""

from __future__ import annotations

import argparse
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from hapax.core.activation_layout import Layout
from hapax.core.activations import regular_positions
from hapax.core.backends.hooks import Rows, tapped
from hapax.core.backends.schedules import TrainingSchedule
from hapax.core.collect import THUMBNAIL
from hapax.core.sae import MatryoshkaSAE, SAEConfig
from hapax.core.sites import find_sites
from hapax.core.steering import SteerFeatures
from hapax.core.taps import Recorder, compose
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PICTURES, STEPS, POSITIONS, EMBEDDING, SAMPLER_STEPS = 5000, 5, 64, 768, 50
GB = 1e9


@dataclass(frozen=True)
class Model:
    """A published model: its denoiser's class and configuration, where to read it, and its own picture size."""

    kind: type
    config: dict[str, Any]
    site: str
    pixels: int
    context: tuple[int, int]
    patch: int = 1

    def grid(self) -> int:
        """Side of the token grid at the site."""
        return self.pixels // 8 // self.patch

    def build(self, **changes: Any) -> nn.Module:
        """The denoiser, on the device and in the dtype that are the default."""
        return self.kind(**(self.config | changes)).eval().requires_grad_(False)


MODELS = {
    # The class' defaults are SD1's but for the text's width and the size of the heads; 3 halvings lead to `mid`.
    "sd15": Model(
        UNet2DConditionModel,
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        "mid",
        512,
        (77, 768),
        patch=8,
    ),
    "sdxl": Model(
        UNet2DConditionModel,
        {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "mid",
        1024,
        (77, 2048),
        patch=4,
    ),
    "sd3": Model(
        SD3Transformer2DModel,
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        },
        "double.12",
        1024,
        (333, 4096),
        patch=2,
    ),
    "flux": Model(
        FluxTransformer2DModel,
        {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        "double.18",
        1024,
        (512, 4096),
        patch=2,
    ),
}


def inputs(name: str, model: Model, denoiser: nn.Module, side: int, rows: int) -> dict[str, Any]:
    """Arguments of one call: `rows` latents of `side` x `side`, in the default device and dtype."""
    text = torch.zeros(rows, *model.context)
    options: dict[str, Any] = {"timestep": torch.full((rows,), 500.0), "return_dict": False}
    if name == "flux":
        half = side // 2
        ids = torch.zeros(half, half, 3)
        ids[..., 1] += torch.arange(half)[:, None]
        ids[..., 2] += torch.arange(half)
        return options | {
            "hidden_states": torch.zeros(rows, half * half, 64),
            "encoder_hidden_states": text,
            "pooled_projections": torch.zeros(rows, 768),
            "timestep": torch.full((rows,), 0.5),
            "guidance": torch.full((rows,), 3.5),
            "img_ids": ids.view(-1, 3),
            "txt_ids": torch.zeros(model.context[0], 3),
        }
    channels = denoiser.config.in_channels  # type: ignore[union-attr]
    latents = torch.zeros(rows, channels, side, side)
    if name == "sd3":
        return options | {
            "hidden_states": latents,
            "encoder_hidden_states": text,
            "pooled_projections": torch.zeros(rows, 2048),
        }
    added = {"text_embeds": torch.zeros(rows, 1280), "time_ids": torch.zeros(rows, 6)}
    return options | {"sample": latents, "encoder_hidden_states": text, "added_cond_kwargs": added}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def on_meta(name: str) -> nn.Module:
    """A model's denoiser at its true shape, without memory."""
    with torch.device("meta"):
        return MODELS[name].build()


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and not freed yet; `peak` is the largest sum."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet(tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers()))

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, n: int) -> None:
        self.now -= n


@contextmanager
def fake() -> Iterator[None]:
    """Tensors made here have shapes, bfloat16 by default, and no memory."""
    with default_dtype(torch.bfloat16), FakeTensorMode(), torch.no_grad():
        yield


def peak(module: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes of the activations that live at once in a call, weights and inputs aside."""
    with Live(module) as live:
        call()
    return live.peak


def denoiser_peak(name: str, rows: int) -> int:
    model = MODELS[name]
    with fake():
        denoiser = model.build()
        arguments = inputs(name, model, denoiser, model.pixels // 8, rows)
        return peak(denoiser, lambda: denoiser(**arguments))


def sdxl_autoencoder() -> Any:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
    ).eval()


def decoder_peak() -> int:
    with fake():
        autoencoder = sdxl_autoencoder()
        latents = torch.zeros(1, 4, 128, 128)
        return peak(autoencoder, lambda: autoencoder.decode(latents))


def weight_bytes(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> int:
    return sum(p.numel() for p in module.parameters()) * dtype.itemsize


def layout_of(name: str, channels: int) -> Layout:
    """What an audit with the defaults records of each picture."""
    side = MODELS[name].grid()
    return Layout(
        steps=tuple(i / STEPS for i in range(STEPS)),
        positions=tuple(regular_positions(side, side, POSITIONS).tolist()),
        channels=channels,
        dtype="float16",
        thumbnail=(THUMBNAIL, THUMBNAIL),
        embedding=EMBEDDING,
    )


def picture_bytes(layout: Layout) -> int:
    """Bytes of one picture in a store: float16 tokens, a byte a colour, float32 embeddings."""
    width = {"tokens": 2, "thumbnails": 1, "embeddings": 4}
    return sum(width[name] * torch.Size(shape).numel() for name, shape in layout.shapes().items())


def sae_bytes(channels: int) -> tuple[int, int, int]:
    """Bytes of an autoencoder of 16 latents a channel: its weights, in training, and its scored part alone.

    In training there are weights, gradients and Adam's two moments in float32, and the pre-activations of a batch.
    """
    latents = 16 * channels
    with torch.device("meta"):
        weights = sum(
            p.nbytes for p in nn.ModuleList([nn.Linear(channels, latents), nn.Linear(latents, channels)]).parameters()
        )
    batch = SAEConfig(channels, latents, (latents // 10, latents)).batch_size
    return weights, 4 * weights + 4 * batch * latents, weights // 10


def table(names: list[str]) -> None:
    print(f"{'':6}{'weights':>9}{'live':>7}{'site':>11}{'channels':>9}{'tokens':>7}{'picture':>9}{'store':>8}{'all':>8}"
          f"{'SAE':>7}{'training':>9}")  # fmt: skip
    print(f"{'':6}{'GB, bf16':>9}{'GB':>7}{'':>11}{'':>9}{'':>7}{'kB':>9}{'GB':>8}{'GB':>8}{'GB':>7}{'GB':>9}")
    for name in names:
        model, denoiser = MODELS[name], on_meta(name)
        channels = find_sites(denoiser)[model.site].channels
        tokens, layout = model.grid() ** 2, layout_of(name, channels)
        whole = PICTURES * SAMPLER_STEPS * tokens * channels * 2
        weights, training, _ = sae_bytes(channels)
        live = denoiser_peak(name, rows=1 if name == "flux" else 2)
        one = picture_bytes(layout)
        print(
            f"{name:6}{weight_bytes(denoiser) / GB:9.2f}{live / GB:7.2f}{model.site:>11}{channels:9}{tokens:7}"
            f"{one / 1e3:9.0f}{PICTURES * one / GB:8.2f}{whole / GB:8.0f}{weights / GB:7.2f}{training / GB:9.2f}",
            flush=True,
        )
    print("live: activations of one guided sample at the model's own size, the largest sum at any moment")
    print(
        f"picture, store: {STEPS} steps x {POSITIONS} positions in float16, thumbnail, embedding; {PICTURES} pictures"
    )
    print(
        f"all: what every token of {SAMPLER_STEPS} steps would take for as many; training: float32, batches of 4096\n"
    )


def recipe() -> None:
    """What lies on the card at once when SDXL is audited: weights in bfloat16, CLIP in float32."""
    import open_clip
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    large = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    big = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    with torch.device("meta"):
        parts = {
            "UNet, bfloat16": weight_bytes(MODELS["sdxl"].build()),
            "text encoders, bfloat16": weight_bytes(CLIPTextModel(CLIPTextConfig(**large)))
            + weight_bytes(CLIPTextModelWithProjection(CLIPTextConfig(**big, projection_dim=1280))),
            "autoencoder, bfloat16": weight_bytes(sdxl_autoencoder()),
            "CLIP ViT-L-14, float32": weight_bytes(
                open_clip.model.CLIP(**open_clip.get_model_config("ViT-L-14")), torch.float32
            ),
        }
    total = sum(parts.values())
    for name, size in parts.items():
        print(f"{name:40}{size / GB:8.2f} GB")
    print(f"{'weights together':40}{total / GB:8.2f} GB")
    for name, size in (
        ("live in the UNet, one guided sample", denoiser_peak("sdxl", 2)),
        ("live in the decoder, one picture", decoder_peak()),
    ):
        print(f"{name:40}{size / GB:8.2f} GB   with the weights {(total + size) / GB:.2f} GB")
    print(f"{'a card of 12 GiB':40}{12 * 2**30 / GB:8.2f} GB\n")


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Small random weights, quickly: a block of noise, repeated."""
    noise = torch.randn(1 << 20) * 0.02
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            flat = tensor.view(-1)
            for start in range(0, len(flat), len(noise)):
                piece = flat[start : start + len(noise)]
                piece.copy_(noise[: len(piece)])


def run(name: str, side: int = 16) -> None:
    """Record and steer at a model's site, at `side` x `side` latents."""
    model, blocks = MODELS[name], {}
    if name == "flux":
        blocks = {"num_layers": 1, "num_single_layers": 1}
    with default_dtype(torch.bfloat16):
        denoiser = model.build(**blocks)
        fill(denoiser)
        rows = 1 if name == "flux" else 2
        arguments = inputs(name, model, denoiser, side, rows)
    sites = ["double.0", "single.0"] if name == "flux" else [model.site]
    flow = name in ("sd3", "flux")
    schedule = TrainingSchedule.of(FlowMatchEulerDiscreteScheduler() if flow else DDIMScheduler())
    labels = Rows.of([0], guided=rows == 2)
    for site in sites:
        channels = find_sites(denoiser)[site].channels
        # As wide as the audit's, but with so many latents that it is quickly made; steering reads single rows.
        sae = MatryoshkaSAE(channels, 2048, (1024, 2048), 32)
        outputs, recorder, began = [], Recorder([0.5]), time.perf_counter()
        for strength in (None, 0.0, 5.0):
            edit = [] if strength is None else [SteerFeatures(sae, [7], strength=strength)]
            taps = {find_sites(denoiser)[site]: compose([recorder, *edit])}
            with torch.no_grad(), tapped(denoiser, taps, schedule, labels):
                outputs.append(denoiser(**arguments)[0])
        seconds = time.perf_counter() - began
        assert torch.equal(outputs[0], outputs[1]), "strength 0 must be bit-equal"
        assert not torch.equal(outputs[0], outputs[2]), "strength 5 must show"
        tokens, _ = recorder.take(0)
        print(f"{name} {site}: recorded {list(tokens.shape)}, steered; three calls took {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tables-only", action="store_true")
    arguments = parser.parse_args()
    table(arguments.models)
    if "sdxl" in arguments.models:
        recipe()
    for name in [] if arguments.tables_only else arguments.models:
        run(name)


if __name__ == "__main__":
    main()

"""The emoji world through ComfyUI's own classes, so that every template runs with no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ..core import emoji
from ..core.errors import HapaxError
from .schema import io, schema

_MODEL_TYPES = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}


class EmojiLatent(comfy.latent_formats.LatentFormat):
    """Latents of the emoji world's VAE."""

    latent_channels = 8


class EmojiWorld(comfy.supported_models.SD15):
    """The emoji world's denoiser as ComfyUI's UNet; its sizes are read from its files."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = EmojiLatent

    def __init__(self, folder: Path) -> None:
        unet, schedule, vae = (
            _json(folder / part) for part in ("unet/config.json", "scheduler/scheduler_config.json", "vae/config.json")
        )
        super().__init__(_unet_config(unet))
        self.prediction = schedule["prediction_type"]
        # What ComfyUI calls linear is linear in the square root, diffusers' scaled_linear.
        self.sampling_settings = {"linear_start": schedule["beta_start"], "linear_end": schedule["beta_end"]}
        self.latent_format.scale_factor = vae["scaling_factor"]
        for name, colors in _json(folder / "vae" / "preview.json").items():
            setattr(self.latent_format, name, colors)
        self.set_inference_dtype(torch.float32, None)

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> Any:
        """What the denoiser predicts."""
        return _MODEL_TYPES[self.prediction]

    def inpaint_model(self) -> bool:
        """It is none, though ComfyUI takes any model of more than 4 channels for one."""
        return False


def _unet_config(unet: dict[str, Any]) -> dict[str, Any]:
    """Translate the config of diffusers' UNet2DConditionModel into that of ComfyUI's UNetModel."""
    widths, layers = unet["block_out_channels"], unet["layers_per_block"]
    down = [int("CrossAttn" in kind) for kind in unet["down_block_types"]]
    up = [int("CrossAttn" in kind) for kind in reversed(unet["up_block_types"])]
    return {
        "use_checkpoint": False,
        "image_size": unet["sample_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "use_spatial_transformer": True,
        "legacy": False,
        "adm_in_channels": None,
        "model_channels": widths[0],
        "num_res_blocks": [layers] * len(widths),
        "channel_mult": [width // widths[0] for width in widths],
        "transformer_depth": [depth for depth in down for _ in range(layers)],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [depth for depth in up for _ in range(layers + 1)],
        "use_linear_in_transformer": unet["use_linear_projection"],
        "context_dim": unet["cross_attention_dim"],
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        # A misnomer of diffusers': this is the number of heads.
        "num_heads": unet["attention_head_dim"],
        "num_head_channels": -1,
    }


def load_model(folder: str | Path | None = None, disable_dynamic: bool = False) -> ModelPatcher:
    """Load the denoiser; ComfyUI calls it again, with `disable_dynamic`, when it needs a copy of its own."""
    place = _folder(folder)
    config = EmojiWorld(place)
    offload = comfy.model_management.unet_offload_device()
    model = config.get_model({}, "", device=offload)
    weights = _weights(place / "unet" / "diffusion_pytorch_model.safetensors")
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    _fill(model.diffusion_model, {names[name]: weight for name, weight in weights.items() if name in names})
    patcher = ModelPatcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)
    patcher.cached_patcher_init = (load_model, (place,))  # type: ignore[attr-defined]
    return patcher


def load_clip(folder: str | Path | None = None) -> comfy.sd.CLIP:
    """Load the text encoder with its own small vocabulary."""
    place = _folder(folder)
    config = _json(place / "text_encoder" / "config.json")
    tokens = config["max_position_embeddings"]
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class TextModel(SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=tokens,
                textmodel_json_config=dict(config),
                special_tokens=special,
                return_projected_pooled=False,
                model_options=model_options or {},
            )
            # ComfyUI's has the 49,408 words of CLIP's vocabulary, whatever the config says.
            words = self.operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
            self.transformer.set_input_embeddings(words.requires_grad_(False))

    class Tokenizer(SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                str(place / "tokenizer"),
                max_length=tokens,
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
                tokenizer_data=tokenizer_data or {},
            )

    class ClipModel(SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=TextModel)

    class Tokenizers(SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=Tokenizer)

    clip = comfy.sd.CLIP(ClipTarget(Tokenizers, ClipModel), model_options={"dtype": torch.float32})
    weights = _weights(place / "text_encoder" / "model.safetensors")
    named = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in weights.items()}
    text = clip.cond_stage_model.clip_l.transformer
    # The pooled text is projected by this; Stable Diffusion's denoiser doesn't use it, and the file lacks it.
    named["text_projection.weight"] = torch.eye(config["hidden_size"])
    _fill(text, named)
    return clip


def load_vae(folder: str | Path | None = None) -> comfy.sd.VAE:
    """Load the VAE: 64 x 64 pixels are 8 x 8 cells of 8 channels."""
    place = _folder(folder)
    config = _json(place / "vae" / "config.json")
    widths, channels = config["block_out_channels"], config["latent_channels"]
    shape = {
        "double_z": True,
        "z_channels": channels,
        "resolution": config["sample_size"],
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(
        sd=_weights(place / "vae" / "diffusion_pytorch_model.safetensors"),
        config={"params": {"embed_dim": channels, "ddconfig": shape}},
        dtype=torch.float32,
    )
    vae.latent_channels = channels
    return vae


def _folder(folder: str | Path | None) -> Path:
    place = emoji.MODEL_FOLDER if folder is None else Path(folder)
    if not (place / "model_index.json").is_file():
        raise HapaxError(f"The demo model's files are not in {place}; install Hapax anew, all of it.")
    return place


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _weights(path: Path) -> dict[str, Tensor]:
    return {name: weight.float() for name, weight in comfy.utils.load_torch_file(str(path)).items()}


def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights, all of them: ComfyUI's layers hold arbitrary memory until they are given some."""
    missing, unexpected = module.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise HapaxError(
            f"The demo model's files don't fit this ComfyUI: {len(missing)} weights are missing ({missing[:1]}) and "
            f"{len(unexpected)} unknown; update Hapax and ComfyUI."
        )
    module.eval()


class LoadDemoModel(io.ComfyNode):
    """Load Demo Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadDemoModel",
            "Load Demo Model",
            "demo",
            description="The emoji world: a small text-to-image model that comes with Hapax, so that you can try "
            "everything without a download. It makes pictures of 64 x 64 pixels in a blink; ask it for a photo of a "
            "doctor, a firefighter, a cat. What it rarely shows is known, so you can see whether it is found. "
            "Use cfg 1, 10 steps, dpmpp_2m.",
            search_aliases=["hapax", "emoji", "checkpoint", "example model", "tiny model"],
            inputs=[],
            outputs=[
                io.Model.Output("MODEL", display_name="model", tooltip="The denoiser, an SD1.x-like UNet."),
                io.Clip.Output("CLIP", display_name="clip", tooltip="The text encoder; it knows some 200 words."),
                io.Vae.Output("VAE", display_name="vae", tooltip="Decodes its latents of 8 channels."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the three."""
        # Weights made in inference mode could never meet a gradient.
        with torch.inference_mode(False):
            return io.NodeOutput(load_model(), load_clip(), load_vae())


NODES = [LoadDemoModel]

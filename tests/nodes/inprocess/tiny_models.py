"""Tiny MODELs, a CLIP and a VAE of ComfyUI's own classes: random seeded weights, no download, a fraction of a second.

A random network normalises nothing, so its latents are large: compare differences, never looks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import comfy.hooks
import comfy.model_management
import comfy.sd
import comfy.supported_models as families
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from torch import Tensor

CONTEXT = 64
TOKENS = 77
POOLED = 64

SD15_UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [1, 1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": CONTEXT,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
# SDXL's vector of sizes and pooled text: six Fourier features of 256 beside the pooled embedding.
SDXL_UNET = SD15_UNET | {
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
}
HEADS = {"num_heads": 2, "num_head_channels": -1}


class TinySD15(families.SD15):
    unet_config = SD15_UNET
    unet_extra_config = HEADS


class TinySDXL(families.SDXL):
    unet_config = SDXL_UNET
    unet_extra_config = HEADS


SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "out_channels": 16,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": POOLED,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": CONTEXT, "out_features": 128},
    },
    "num_patches": 64,
    "pos_embed_max_size": 8,
    "pos_embed_scaling_factor": None,
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": POOLED,
    "context_in_dim": CONTEXT,
    "hidden_size": 96,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 8, 8],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A family: what builds its config, its latents' channels, and the name and width of a site in it."""

    config: Callable[[], families.supported_models_base.BASE]
    latent_channels: int
    site: str
    site_channels: int


def _flux() -> families.Flux:
    from comfy.ldm.flux.model import FluxParams

    # ComfyUI 0.33 asks for the axes of the text's positions, 0.3.64 refuses them.
    extra = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    return families.Flux(FLUX | extra)


FAMILIES = {
    "sd15": Tiny(lambda: TinySD15(dict(SD15_UNET)), 4, "mid", 128),
    "sdxl": Tiny(lambda: TinySDXL(dict(SDXL_UNET)), 4, "mid", 128),
    "sd3": Tiny(lambda: families.SD3(dict(SD3)), 16, "double.0", 128),
    "flux": Tiny(_flux, 16, "double.0", 96),
}


def seed_weights(module: torch.nn.Module, seed: int) -> None:
    """Give every tensor a value: ComfyUI's layers skip their own initialisation and are uninitialised memory."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim >= 2:
                fan_in = math.prod(weight.shape[1:])
                weight.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(fan_in))
            else:
                weight.fill_(1.0 if name.endswith("weight") or name.endswith("scale") else 0.0)
        for buffer in module.buffers():
            # SD3's table of positions is uninitialised too.
            buffer.copy_(torch.randn(buffer.shape, generator=generator) / 8)


def build_model(family: str, seed: int = 0, disable_dynamic: bool = False) -> ModelPatcher:
    """A new MODEL of `family` (a key of FAMILIES); equal seeds give equal weights."""
    del disable_dynamic  # ComfyUI 0.33 passes it to the factory below; there is no dynamic loading on a CPU.
    config = FAMILIES[family].config()
    config.set_inference_dtype(torch.float32, None)
    offload = comfy.model_management.unet_offload_device()
    model = config.get_model({}, "", device=offload)
    seed_weights(model.diffusion_model, seed)
    model.eval()
    patcher = ModelPatcher(model, load_device=comfy.model_management.get_torch_device(), offload_device=offload)
    patcher.cached_patcher_init = (build_model, (family, seed))  # type: ignore[attr-defined]
    return patcher


class _TinyTextModel(SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        config = {
            "hidden_size": CONTEXT,
            "intermediate_size": 128,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "max_position_embeddings": TOKENS,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "vocab_size": 49408,
            "projection_dim": CONTEXT,
            "eos_token_id": 49407,
        }
        super().__init__(device=device, dtype=dtype, textmodel_json_config=config, model_options=model_options or {})


class _TinyClipModel(SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device, dtype=dtype, model_options=model_options or {}, clip_name="l", clip_model=_TinyTextModel
        )


class _TinySDTokenizer(SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(
            embedding_directory=embedding_directory, embedding_size=CONTEXT, tokenizer_data=tokenizer_data or {}
        )


class _TinyTokenizer(SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=_TinySDTokenizer)


class _ClipTarget:
    def __init__(self) -> None:
        self.params: dict = {}
        self.clip = _TinyClipModel
        self.tokenizer = _TinyTokenizer


def build_clip(seed: int = 0) -> comfy.sd.CLIP:
    """A CLIP of two layers and 64 channels with SD1.x's own tokenizer."""
    clip = comfy.sd.CLIP(_ClipTarget(), parameters=4_000_000, model_options={"dtype": torch.float32})
    seed_weights(clip.cond_stage_model, seed)
    return clip


def build_vae(seed: int = 0, latent_channels: int = 4) -> comfy.sd.VAE:
    """A VAE that shrinks a picture eight times, as Stable Diffusion's does."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    shape = {
        "double_z": True,
        "z_channels": latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"embed_dim": latent_channels, "ddconfig": shape}
    network = AutoencoderKL(**params)
    seed_weights(network, seed)
    return comfy.sd.VAE(sd=network.state_dict(), config={"params": params}, dtype=torch.float32)


def conditioning(seed: int, guidance: float | None = None) -> list:
    """A CONDITIONING of random text, as CLIPTextEncode returns it; Flux reads `guidance`."""
    generator = torch.Generator().manual_seed(seed)
    text: Tensor = torch.randn((1, TOKENS, CONTEXT), generator=generator)
    extra: dict = {"pooled_output": torch.randn((1, POOLED), generator=generator)}
    if guidance is not None:
        extra["guidance"] = guidance
    return [[text, extra]]


def noise_like(latent: Tensor, seed: int) -> Tensor:
    """Noise [B, C, H, W], each row from its own seed: seed, seed + 1, ..."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(latent))]
    return torch.stack([torch.randn(latent.shape[1:], generator=each) for each in generators])

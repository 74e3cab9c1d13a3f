"""Pictures as a pipeline's denoiser knows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .diffusers import DiffusersBackend
from .noise import is_flux


@torch.inference_mode()
def encode(backend: DiffusersBackend, pixels: Tensor) -> Tensor:
    """Turn pictures `[N, 3, H, W]` in [-1, 1] into clean latents as the denoiser sees them, float32 on the CPU."""
    pipeline, vae = backend.pipeline, backend.pipeline.vae
    mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu()
    latents = (mean - code_shift(pipeline)) * vae.config.scaling_factor
    return pipeline._pack_latents(latents, *latents.shape) if is_flux(backend.denoiser) else latents


def code_shift(pipeline: Any) -> float:
    """Return what is taken off the autoencoder's codes before they are scaled.

    UNet pipelines know no shift, whatever the autoencoder's config says.
    """
    return (getattr(pipeline.vae.config, "shift_factor", None) or 0.0) if hasattr(pipeline, "transformer") else 0.0

"""Each sample's noise is its own: the size of its latents, the first noise, samplers that break the rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError

# These draw one noise path for the whole batch.
_BATCH_NOISE = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")


def is_flux(denoiser: object) -> bool:
    """Tell whether latents are packed into tokens of 2 x 2 and guidance is an input, as for Flux."""
    return type(denoiser).__name__.startswith("Flux")


def picture_size(pipeline: Any, denoiser: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Return height and width in pixels, the model's own where None.

    Raises:
        HapaxError: the model's token grid can't hold the size.
    """
    factor = pipeline.vae_scale_factor
    if is_flux(denoiser):
        own, unit = pipeline.default_sample_size, 2 * factor
    else:
        own = denoiser.config.sample_size
        # The UNet pipelines themselves ask for multiples of 8, whatever their autoencoder's factor.
        unit = factor * getattr(denoiser.config, "patch_size", math.lcm(8, factor) // factor)
    own = (own, own) if isinstance(own, int) else own
    size = own[0] * factor if height is None else height, own[1] * factor if width is None else width
    if any(side < unit or side % unit for side in size):
        raise HapaxError(f"The size is {size[1]} x {size[0]} pixels; give multiples of {unit} to this model.")
    return size


def initial_noise(pipeline: Any, denoiser: Any, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Tensor:
    """Draw the first latents `[B, C, h, w]` (or packed) in float32, per sample, then in the model's dtype."""
    factor, packed = pipeline.vae_scale_factor, is_flux(denoiser)
    channels = denoiser.config.in_channels // (4 if packed else 1)
    shape = (channels, size[0] // factor, size[1] // factor)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return (pipeline._pack_latents(noise, *noise.shape) if packed else noise).to(denoiser.dtype)


def check_sampler(pipeline: Any) -> None:
    """Raise HapaxError where the pipeline's sampler draws noise that depends on the batch."""
    name, config = type(pipeline.scheduler).__name__, pipeline.scheduler.config
    draws = (
        name == "FlowMatchLCMScheduler"
        or config.get("stochastic_sampling")
        or str(config.get("algorithm_type")).startswith("sde")
    )
    # Pipelines without this method don't hand the samples' generators on to their scheduler.
    handed_on = hasattr(pipeline, "prepare_extra_step_kwargs")
    if name in _BATCH_NOISE or (draws and not handed_on):
        raise HapaxError(
            f"The sampler {name}, as it is set, draws its noise for a whole batch at once, so a picture "
            "would depend on its neighbours; set pipeline.scheduler to another one."
        )

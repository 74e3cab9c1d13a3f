"""One call of the denoiser at each of some noise levels, through all that is patched onto a MODEL."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor


class _EachOnce(comfy.samplers.Sampler):
    """A sampler that samples nothing: at each sigma it noises the latent anew and calls the model once."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Return the latent as it was."""
        sampling = model_wrap.inner_model.model_sampling
        for done, sigma in enumerate(sigmas):
            self.report(done)
            x = sampling.noise_scaling(sigma, noise, latent_image, False)
            model_wrap(x, sigma.expand(len(x)), **extra_args)
        return latent_image


def probe(
    model: Any, positive: list, latent: Tensor, progress: Sequence[float], seed: int, report: Callable[[int], None]
) -> None:
    """Call a model once at each progress in [0, 1], under the prompt alone, with a noised latent `[B, C, h, w]`.

    What its taps record is the result. `report(done)` is called before each.
    """
    sigmas = torch.tensor([sigma_at(model.get_model_object("model_sampling"), p) for p in progress])
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    noise = comfy.sample.prepare_noise(latent, seed)
    comfy.sample.sample_custom(
        model, noise, 1.0, _EachOnce(report), sigmas, positive, positive, latent, disable_pbar=True, seed=seed
    )


def sigma_at(sampling: Any, progress: float) -> float:
    """The noise level at a progress along the training schedule; the inverse of `comfy_steps.schedule_labels`."""
    table = getattr(sampling, "log_sigmas", None)
    if table is None:
        # The last of a flow's timesteps; at 0 there would be nothing to predict.
        return max(1.0 - progress, 1e-3)
    index = round((1 - progress) * (len(table) - 1))
    return math.exp(float(table[index]))

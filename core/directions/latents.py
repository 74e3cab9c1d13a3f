"""What the denoiser sees in finished latents: noise put on them, one call each, under one prompt for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.denoiser import Conditioned, Denoising
from ..sites import select_site
from .pooled import PooledRecorder


def read_latents(
    backend: Any,
    latents: Tensor,
    seeds: Sequence[int],
    *,
    prompt: str,
    progress: Sequence[float],
    site: str = "mid",
    batch_size: int = 8,
    size: Mapping[str, Any] | None = None,
    report: Callable[[int], object] | None = None,
) -> Tensor:
    """Pooled activations [N, S, C] at a site when the denoiser reads noised latents under a prompt.

    x_t = a x_0 + b eps with the training schedule's a and b (Ho et al. 2020, Eq. 4; for flows 1 - t and t). No
    autoencoder takes part, so it costs one call of the denoiser a latent and point of the way.

    Args:
        backend: a diffusers backend; or one that has a `denoise_under` of its own, as ComfyUI's.
        latents: [N, ...] as `backend.sample` returns them.
        seeds: N of them; equal ones get equal noise.
        prompt: what they are read under.
        progress: S points of the way, ascending, in [0, 1].
        site, batch_size, size: where, how many at a time, and the pipeline's size options.
        report: called with the number of latents that are done.

    Raises:
        HapaxError: no such site.
    """
    site = str(select_site(backend.sites, site))

    def read(model: Denoising, latents: Tensor) -> Tensor:
        found = []
        for start in range(0, len(latents), batch_size):
            found.append(_batch(model, latents[start : start + batch_size], seeds[start:], site, progress))
            if report is not None:
                report(min(len(latents), start + batch_size))
        return torch.cat(found)

    if hasattr(backend, "denoise_under"):
        return backend.denoise_under(prompt, latents, batch_size, site, read)
    with torch.inference_mode():
        return read(Conditioned(backend, [prompt], **(size or {})), latents)


def _batch(model: Denoising, clean: Tensor, seeds: Sequence[int], site: str, progress: Sequence[float]) -> Tensor:
    recorder, rows = PooledRecorder(progress), len(clean)
    noise = torch.stack(
        [torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds[:rows]]
    )
    for place in progress:
        timestep = model.schedule.timestep(torch.full((rows,), float(place)))
        a, b = (scale.view(-1, *[1] * (clean.ndim - 1)) for scale in model.schedule.scales(timestep))
        x = a * clean.cpu() + b * noise
        model.predict(x, timestep, torch.zeros(rows, dtype=torch.long), {site: recorder})
    return torch.stack([recorder.take(row) for row in range(rows)])

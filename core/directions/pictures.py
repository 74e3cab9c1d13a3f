"""Activations of given pictures: noise them to chosen points of the way and let the denoiser read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import HapaxError
from .pooled import PooledRecorder


def picture_activations(
    backend: Any,
    pictures: Sequence[Image.Image],
    *,
    seeds: Sequence[int],
    progress: Sequence[float],
    site: str = "mid",
    prompt: str = "",
    batch_size: int = 8,
) -> Tensor:
    """Pooled activations [n, R, S, C] at a site when the denoiser reads noised pictures under a prompt.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, Eq. 4), where x_0 is the autoencoder's code and eps
    the noise that the backend draws for the seed: the same for every picture, and as in sampling with that seed.

    Args:
        backend: a diffusers backend, whose pipeline's own call runs, so text is encoded as in sampling; or one that
            has a `picture_activations` of its own, which is called.
        pictures: n of them, resized to the model's size where they differ.
        seeds: R of them.
        progress: S points of the way, ascending, in [0, 1].
        site, prompt, batch_size: where, under what, and how many at a time.

    Raises:
        HapaxError: no pictures or seeds, or a flow model (SD3, Flux), whose pipelines can't be made to read a picture.
    """
    if not len(pictures) or not len(seeds):
        raise HapaxError(f"There are {len(pictures)} pictures and {len(seeds)} seeds; give at least one of each.")
    if hasattr(backend, "picture_activations"):
        options = {"seeds": seeds, "progress": progress, "site": site, "prompt": prompt, "batch_size": batch_size}
        return backend.picture_activations(pictures, **options)
    pipeline = backend.pipeline
    if not hasattr(pipeline.scheduler, "alphas_cumprod") or not hasattr(pipeline.scheduler, "scale_model_input"):
        raise HapaxError(
            f"{type(pipeline).__name__} is a flow model, whose activations on given pictures can't be recorded yet; "
            "describe activations that were recorded while it sampled."
        )
    codes = _encode(pipeline, pictures, backend.denoiser.config.sample_size, batch_size)
    work = [(row, int(seed)) for row in range(len(pictures)) for seed in seeds]
    found = []
    for start in range(0, len(work), batch_size):
        rows, noise = zip(*work[start : start + batch_size], strict=True)
        recorder = PooledRecorder(progress)
        with _replaying(pipeline, codes[list(rows)], progress):
            options = {"steps": len(progress), "guidance": 1.0, "batch_size": len(rows), "output": "latent"}
            backend.sample(prompt, list(noise), {site: recorder}, **options)
        found += [recorder.take(i) for i in range(len(rows))]
    return torch.stack(found).unflatten(0, (len(pictures), len(seeds)))


@torch.no_grad()
def _encode(pipeline: Any, pictures: Sequence[Image.Image], side: int | Sequence[int], batch_size: int) -> Tensor:
    """The autoencoder's codes [n, c, h, w], as the denoiser knows them."""
    vae = pipeline.vae
    height, width = (edge * pipeline.vae_scale_factor for edge in ((side, side) if isinstance(side, int) else side))
    codes = []
    for start in range(0, len(pictures), batch_size):
        part = [picture.convert("RGB") for picture in pictures[start : start + batch_size]]
        # Resized one by one, for they may come in different sizes.
        x = torch.cat([pipeline.image_processor.preprocess(each, height=height, width=width) for each in part])
        codes.append(vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mode())
    # UNet pipelines know no shift, whatever the autoencoder's config says.
    return torch.cat(codes) * vae.config.scaling_factor


@contextmanager
def _replaying(pipeline: Any, codes: Tensor, progress: Sequence[float]) -> Iterator[None]:
    """Make a pipeline's next call read noised codes at these points instead of sampling."""
    scheduler = pipeline.scheduler
    pipeline.scheduler = _Replay(scheduler, codes, progress)
    try:
        yield
    finally:
        pipeline.scheduler = scheduler


class _Replay:
    """A scheduler that keeps the noise as it is, and shows the denoiser the codes under that noise."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, scheduler: Any, codes: Tensor, progress: Sequence[float]) -> None:
        self.config, self.alphas_cumprod = scheduler.config, scheduler.alphas_cumprod
        last = scheduler.config.num_train_timesteps - 1
        self._timesteps = torch.tensor([round((1 - each) * last) for each in progress])
        self._codes = codes

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.timesteps = self._timesteps.to(device)

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        abar = self.alphas_cumprod.to(sample.device)[timestep].to(sample.dtype)
        return abar.sqrt() * self._codes.to(sample) + (1 - abar).sqrt() * sample

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        return (sample,)

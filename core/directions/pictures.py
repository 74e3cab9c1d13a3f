"""Activations of given pictures: noise them to chosen points of the way and let the denoiser read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..backends.autoencoder import encode
from ..backends.noise import picture_size
from ..errors import HapaxError
from .latents import read_latents


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

    The pictures' codes by the autoencoder are read as `read_latents` does, each under the noise of each seed.

    Args:
        backend: a diffusers backend; or one that has a `picture_activations` of its own, which is called.
        pictures: n of them, resized to the model's size where they differ.
        seeds: R of them.
        progress: S points of the way, ascending, in [0, 1].
        site, prompt, batch_size: where, under what, and how many at a time.

    Raises:
        HapaxError: no pictures or seeds.
    """
    if not len(pictures) or not len(seeds):
        raise HapaxError(f"There are {len(pictures)} pictures and {len(seeds)} seeds; give at least one of each.")
    if hasattr(backend, "picture_activations"):
        options = {"seeds": seeds, "progress": progress, "site": site, "prompt": prompt, "batch_size": batch_size}
        return backend.picture_activations(pictures, **options)
    pipeline = backend.pipeline
    height, width = picture_size(pipeline, backend.denoiser, None, None)
    codes = []
    for start in range(0, len(pictures), batch_size):
        part = [picture.convert("RGB") for picture in pictures[start : start + batch_size]]
        # Resized one by one, for they may come in different sizes.
        x = torch.cat([pipeline.image_processor.preprocess(each, height=height, width=width) for each in part])
        codes.append(encode(backend, x))
    every = torch.cat(codes).repeat_interleave(len(seeds), 0)
    options = {"prompt": prompt, "progress": progress, "site": site, "batch_size": batch_size}
    found = read_latents(backend, every, list(seeds) * len(pictures), **options)
    return found.unflatten(0, (len(pictures), len(seeds)))

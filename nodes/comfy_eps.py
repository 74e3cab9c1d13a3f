"""Taps on what ComfyUI's denoisers return, the site `eps`. Imports nothing of ComfyUI by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .comfy_sites import is_packed
from .comfy_steps import options_of, step_of

EPS = "hapax_eps"


def tap_eps(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of the denoiser: hand its output to the taps at `eps`."""
    return _edited(executor(*args, **kwargs), options_of(args, kwargs), is_packed(executor.class_obj))


def tap_flow_eps(executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of SD3's call, of which ComfyUI runs no wrapper of the denoiser: its output is known from x - sigma v."""
    denoised, sigma = executor(x, t, *args, **kwargs), t.view(-1, *[1] * (x.ndim - 1))
    v = (x - denoised) / sigma
    edited = _edited(v, options_of(args, kwargs), False)
    return denoised if edited is v else denoised - sigma * (edited - v)


def _edited(out: Tensor, options: dict[str, Any], packed: bool) -> Tensor:
    for apply in options.get("patches", {}).get(EPS, ()):
        step = step_of(options)
        h = pack(out) if packed else out
        edited = apply(h, None, step if packed else replace(step, grid=tuple(out.shape[2:])))
        if edited is not h:
            out = unpack(edited, out) if packed else edited
    return out


def pack(latent: Tensor) -> Tensor:
    """Lay a latent `[B, C, H, W]` out as Flux does: tokens `[B, T, 4 C]` of 2 x 2 cells, padded where odd.

    >>> pack(torch.zeros(1, 16, 4, 6)).shape
    torch.Size([1, 6, 64])
    """
    even = F.pad(latent, (0, latent.shape[3] % 2, 0, latent.shape[2] % 2))
    return F.pixel_unshuffle(even, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, like: Tensor) -> Tensor:
    """Undo `pack` for a latent of the shape of `like`."""
    height, width = like.shape[2:]
    grid = tokens.transpose(1, 2).unflatten(2, ((height + 1) // 2, (width + 1) // 2))
    return F.pixel_shuffle(grid, 2)[:, :, :height, :width]

"""A feature's pictures: which they are, and where in them it fires."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import HapaxError

# The colours' path in OKLCh, from no activation to the most: lightness rises evenly, so that the order of
# values also reads in grey and to colour-blind eyes; the hue turns from violet over red to yellow.
LIGHTNESS = (0.25, 0.95)
HUE_DEGREES = (290.0, 470.0)
CHROMA = 0.20


def exemplars(pooled: Tensor, k: int = 10) -> Tensor:
    """Indices of the pictures on which a latent fires most, strongest first; equal ones by index.

    Args:
        pooled: [N_img] image-level activations of one latent.
        k: how many at most. Pictures on which it does not fire are never exemplars.

    Returns:
        [<= k] int64.

    Raises:
        HapaxError: pooled is not 1-D or holds NaN, or k < 1.

    Example:
        >>> exemplars(torch.tensor([0.0, 2.0, 1.0, 2.0]), k=3)
        tensor([1, 3, 2])
    """
    if pooled.dim() != 1 or torch.isnan(pooled).any():
        raise HapaxError(f"pooled has shape {tuple(pooled.shape)}; expected one latent's [pictures] without NaN")
    if k < 1:
        raise HapaxError(f"k is {k}; at least 1 exemplar must be asked for")
    firing = int((pooled > 0).sum())
    return torch.argsort(pooled, descending=True, stable=True)[: min(k, firing)]


def heatmap(values: Tensor, size: int, *, grid: tuple[int, int] | None = None, top: float | None = None) -> Tensor:
    """Where a latent fires in one picture: [size, size] fp32 in [0, 1], bilinear; 0 is no activation.

    Args:
        values: [H, W], or [P] row by row, activations at the positions, >= 0.
        size: edge of the result in pixels.
        grid: (H, W) of values [P]; needed only if they are no square.
        top: the activation shown as 1; None takes this picture's largest, which makes pictures incomparable.

    Raises:
        HapaxError: values that are no grid, negative or not finite, or a size or top not above 0.

    Example:
        >>> heatmap(torch.tensor([0.0, 4.0, 0.0, 4.0]), 2)
        tensor([[0., 1.],
                [0., 1.]])
    """
    plane = _as_grid(values, grid)
    if size < 1:
        raise HapaxError(f"size is {size}; a heatmap needs at least 1 pixel")
    if not torch.isfinite(plane).all() or plane.min() < 0:
        raise HapaxError("a heatmap needs finite activations >= 0; pass what the autoencoder's encode() returns")
    if top is not None and not top > 0:
        raise HapaxError(f"top is {top:g}; it must be an activation above 0, or None")
    scale = plane.max().item() if top is None else top
    # Smaller activations than the least normal number are none: dividing by them would overflow.
    shown = plane / scale if scale > torch.finfo(plane.dtype).tiny else torch.zeros_like(plane)
    return resized(shown.clamp(0.0, 1.0), (size, size))


def heatmaps(values: Tensor, size: int, *, grid: tuple[int, int] | None = None, shared: bool = True) -> Tensor:
    """Heatmaps [K, size, size] of a feature's exemplars [K, H, W] or [K, P].

    Args:
        shared: one scale for all, set by the largest activation of any, so that a weak picture looks weak;
            False scales each to its own.
    """
    if not len(values):
        return torch.zeros(0, size, size)
    top = (values.max().item() or None) if shared else None
    return torch.stack([heatmap(v, size, grid=grid, top=top) for v in values])


def colours(heat: Tensor) -> Tensor:
    """Heat [...] in [0, 1] to sRGB [..., 3] in [0, 1], evenly spaced to the eye (OKLCh, Ottosson 2020)."""
    heat = heat.float().clamp(0.0, 1.0)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * heat
    hue = torch.deg2rad(HUE_DEGREES[0] + (HUE_DEGREES[1] - HUE_DEGREES[0]) * heat)
    # The ends of the path are near black and white, where screens show little chroma.
    chroma = CHROMA * torch.sin(math.pi * (0.15 + 0.7 * heat))
    a, b = chroma * torch.cos(hue), chroma * torch.sin(hue)
    cone = torch.stack([lightness, a, b], -1) @ _OKLAB_TO_CONE.T
    linear = (cone**3 @ _CONE_TO_SRGB.T).clamp(0.0, 1.0)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def overlay(picture: Tensor, heat: Tensor, *, opacity: float = 0.75) -> Tensor:
    """Lay a heatmap over a picture; where heat is 0 the picture stays as it is, bit for bit.

    Args:
        picture: uint8 [H, W, 3].
        heat: [h, w] in [0, 1]; resized to the picture.
        opacity: of the colour where heat is 1, in [0, 1].

    Returns:
        uint8 [H, W, 3].

    Raises:
        HapaxError: a picture that is not uint8 RGB, a heat that is not 2-D, an opacity outside [0, 1].
    """
    if picture.dtype != torch.uint8 or picture.dim() != 3 or picture.shape[-1] != 3 or heat.dim() != 2:
        raise HapaxError(
            f"picture is {picture.dtype} {tuple(picture.shape)} and heat {tuple(heat.shape)}; "
            "expected uint8 [H, W, 3] and [h, w]"
        )
    if not 0 <= opacity <= 1:
        raise HapaxError(f"opacity is {opacity:g}; it must lie in [0, 1]")
    shape = (picture.shape[0], picture.shape[1])
    heat = heat.float().clamp(0.0, 1.0)
    if heat.shape != shape:
        heat = resized(heat, shape)
    weight = opacity * heat.unsqueeze(-1)
    return (picture * (1 - weight) + 255 * colours(heat) * weight).round().to(torch.uint8)


def resized(heat: Tensor, shape: tuple[int, int]) -> Tensor:
    """Heatmaps [..., h, w] in [0, 1], bilinear, at another size: [..., H, W]."""
    flat = heat.reshape(-1, 1, *heat.shape[-2:])
    larger = torch.nn.functional.interpolate(flat, shape, mode="bilinear", align_corners=False)
    # The weights of four equal pixels may sum to a little more than 1.
    return larger.view(*heat.shape[:-2], *shape).clamp(0.0, 1.0)


def _as_grid(values: Tensor, grid: tuple[int, int] | None) -> Tensor:
    if values.dim() == 2 and grid in (None, tuple(values.shape)):
        return values.float()
    edge = math.isqrt(values.numel())
    height, width = grid or (edge, edge)
    if values.dim() != 1 or values.numel() == 0 or height * width != values.numel():
        raise HapaxError(
            f"activations of shape {tuple(values.shape)} do not fill a grid of {height} x {width}; "
            "pass [H, W], or [P] with grid=(H, W)"
        )
    return values.float().reshape(height, width)


# OKLab to cube-rooted cone responses, and cone responses to linear sRGB.
_OKLAB_TO_CONE = torch.tensor(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_CONE_TO_SRGB = torch.tensor(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)

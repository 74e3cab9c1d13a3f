"""What varies beyond the prompts: the main directions of the image part, and the pictures at their ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import HapaxError
from .kernels import Kernel, check_kernel, features
from .moments import regression, schur_complement
from .pairs import check_pairs, check_ridge
from .problem import summed
from .schur import DEFAULT_RIDGE


class Mode(NamedTuple):
    """One eigen-direction of Lambda_I.

    Attributes:
        share: its eigenvalue over the trace: how much of what prompts leave open it is.
        eigenvalue: itself.
        direction: [m] unit vector in feature space, which for the cosine kernel is the embedding's.
        scores: [n] each picture's residual along it.
        high: pictures at the longer end, strongest first.
        low: pictures at the other end, strongest first.
    """

    share: float
    eigenvalue: float
    direction: Tensor
    scores: Tensor
    high: list[int]
    low: list[int]


def diversity_modes(
    image: Tensor,
    text: Tensor,
    *,
    count: int = 5,
    pictures: int = 10,
    kernel: Kernel = "cosine",
    sigma: float | None = None,
    ridge: float = DEFAULT_RIDGE,
    rff_dim: int | None = None,
    generator: torch.Generator | None = None,
) -> list[Mode]:
    """The top eigen-directions of what prompts leave open, strongest first (arXiv 2412.18645, clustering).

    A picture is placed by its residual phi_I - phi_T B, so pictures of different prompts are told apart by what
    their prompts don't say. The sign is such that the longer tail, which has the rarer pictures, is `high`.

    Args:
        image, text, kernel, sigma, ridge, rff_dim, generator: as in `schur_complement_entropy`; the Gaussian
            kernel is that of random features.
        count: directions, at most.
        pictures: at each end, at most half of all.

    Raises:
        HapaxError: bad pairs or settings, or a count below 1.

    Example:
        >>> prompts = torch.ones(6, 3)
        >>> pictures = torch.eye(3)[[0, 0, 0, 0, 1, 0]]
        >>> mode = diversity_modes(pictures, prompts, count=1)[0]
        >>> mode.high[0], round(mode.share, 2)
        (4, 1.0)
    """
    check_kernel(kernel, sigma, rff_dim)
    check_ridge(ridge)
    if count < 1 or pictures < 1:
        raise HapaxError(f"count is {count} and pictures {pictures}; give at least 1 of each.")
    image, text = check_pairs(image, text)
    phi = features(image.shape[1], kernel, sigma, rff_dim, generator)
    moments = summed(phi, image, text)
    values, vectors = torch.linalg.eigh(schur_complement(moments, ridge).image)
    residuals = phi(image) - phi(text) @ regression(moments, ridge)
    total, found = values.clamp(min=0).sum(), []
    for i in range(len(values) - 1, max(len(values) - 1 - count, -1), -1):
        # Beyond the rank of the pictures, directions are rounding.
        if values[i] <= len(values) * torch.finfo(values.dtype).eps * total:
            break
        found.append(_mode(values[i], vectors[:, i], residuals, float(values[i] / total), pictures))
    return found


def _mode(value: Tensor, direction: Tensor, residuals: Tensor, share: float, pictures: int) -> Mode:
    scores = residuals @ direction
    if scores.sub(scores.mean()).pow(3).sum() < 0:
        direction, scores = -direction, -scores
    order, shown = torch.argsort(scores, descending=True, stable=True).tolist(), min(pictures, len(scores) // 2)
    return Mode(share, float(value), direction, scores, order[:shown], order[::-1][:shown])

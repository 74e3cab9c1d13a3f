"""Diversity without prompts: the Vendi score and its orders."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import HapaxError
from .kernels import Kernel, check_kernel, operator
from .pairs import check_rows
from .schur import entropies


def vendi_score(
    x: Tensor,
    *,
    kernel: Kernel = "cosine",
    sigma: float | None = None,
    order: float = 1,
    rff_dim: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """The effective number of kinds among embeddings: exp of the Renyi entropy of K / n's eigenvalues.

    Order 1 is the Vendi score (Friedman and Dieng 2023), other orders are Pasarkar and Dieng's (2024): high ones
    look at common kinds only, low ones also at rare ones.

    Args:
        x: [n, d] embeddings.
        kernel, sigma, rff_dim, generator: as in `schur_complement_entropy`.
        order: above 0; math.inf is 1 over the largest eigenvalue.

    Raises:
        HapaxError: bad rows, an order that is not above 0, or settings that don't fit the kernel.

    Example:
        >>> x = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
        >>> round(vendi_score(x), 6), round(vendi_score(x, order=2), 6)
        (3.0, 3.0)
    """
    if not order > 0:
        raise HapaxError(f"order is {order}; give a number above 0, such as 1 for the Vendi score.")
    if order == 2:
        return rke_score(x, kernel=kernel, sigma=sigma, rff_dim=rff_dim, generator=generator)
    check_kernel(kernel, sigma, rff_dim)
    lam = torch.linalg.eigvalsh(operator(check_rows(x, "x"), kernel, sigma, rff_dim, generator)).clamp(min=0)
    if order == 1:
        return entropies(lam)[1]
    if math.isinf(order):
        return float(1 / lam.max())
    # Below order 1 the many zeros that rounding made positive would count.
    lam = lam[lam > len(lam) * torch.finfo(lam.dtype).eps * lam.max()]
    return float(lam.pow(order).sum().pow(1 / (1 - order)))


def rke_score(
    x: Tensor,
    *,
    kernel: Kernel = "cosine",
    sigma: float | None = None,
    rff_dim: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """The Renyi kernel entropy score (Jalali et al. 2023), 1 / |K / n|_F^2: order 2, without eigenvalues.

    The arguments are those of `vendi_score`.
    """
    check_kernel(kernel, sigma, rff_dim)
    return float(1 / operator(check_rows(x, "x"), kernel, sigma, rff_dim, generator).square().sum())

"""The two kernels, as Gram matrices and as features; both give every row the norm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import HapaxError

Kernel = Literal["cosine", "gaussian"]
DEFAULT_RFF_DIM = 2500


@dataclass(frozen=True, eq=False)
class Features:
    """phi: rows [n, d] -> features [n, m], whose products are the kernel.

    Attributes:
        frequencies: [d, D] of the Gaussian kernel, where m = 2 D and products are the kernel up to O(D^-1/2);
            None for the cosine kernel, where m = d and products are exact.
    """

    frequencies: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Features [n, m], fp64, of rows [n, d]: x / |x|, or [cos(x W), sin(x W)] / sqrt(D)."""
        x = x.double()
        if self.frequencies is None:
            return x / x.norm(dim=1, keepdim=True)
        angles = x @ self.frequencies.to(x.device)
        return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(self.frequencies.shape[1])


def features(
    dim: int, kernel: Kernel, sigma: float | None, rff_dim: int | None, generator: torch.Generator | None
) -> Features:
    """The features of a kernel for rows of `dim` numbers; random ones have `rff_dim` or 2500 frequencies."""
    if kernel == "cosine":
        return Features()
    assert sigma is not None
    return Features(orthogonal_frequencies(dim, rff_dim or DEFAULT_RFF_DIM, sigma, generator))


def orthogonal_frequencies(dim: int, count: int, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """Frequencies [dim, count], fp64, of the Gaussian kernel exp(-|x - y|^2 / (2 sigma^2)).

    Orthogonal random features (Yu et al. 2016): each is N(0, 1 / sigma^2), and those of one block of `dim` are
    orthogonal to each other, which estimates the kernel with less variance than independent ones.

    Args:
        generator: on the CPU; by default one of seed 0.
    """
    generator = generator or torch.Generator().manual_seed(0)
    blocks = []
    for _ in range(-(-count // dim)):
        normal = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
        q, r = torch.linalg.qr(normal)
        # QR alone favours some rotations; the signs of R's diagonal make them uniform.
        lengths = torch.randn(dim, dim, dtype=torch.float64, generator=generator).norm(dim=0)
        blocks.append(q * r.diagonal().sign() * lengths)
    return torch.cat(blocks, 1)[:, :count] / sigma


def gram(x: Tensor, kernel: Kernel, sigma: float | None) -> Tensor:
    """The kernel between all rows of x [n, d]: [n, n], fp64, ones on the diagonal."""
    if kernel == "cosine":
        unit = Features()(x)
        return unit @ unit.T
    assert sigma is not None
    x = x.double()
    squares = x.square().sum(1)
    distances = (squares[:, None] + squares - 2 * x @ x.T).clamp_(min=0)
    return distances.div_(-2 * sigma**2).exp_().fill_diagonal_(1.0)


def operator(
    x: Tensor, kernel: Kernel, sigma: float | None, rff_dim: int | None, generator: torch.Generator | None
) -> Tensor:
    """A matrix with the non-zero eigenvalues of the kernel's covariance over the n rows of x: the smaller form.

    It is the Gram matrix / n where that is exact and no larger than the covariance of the features.
    """
    n, dim = x.shape
    if n <= dim if kernel == "cosine" else is_exact(n, rff_dim):
        return gram(x, kernel, sigma) / n
    phi = features(dim, kernel, sigma, rff_dim, generator)(x)
    return phi.T @ phi / n


def is_exact(n: int, rff_dim: int | None) -> bool:
    """Whether n rows of the Gaussian kernel are treated exactly.

    They are unless frequencies are asked for, or the n x n Gram matrix would be larger than the covariance of
    the default features: above n = 5000.

    >>> is_exact(5000, None), is_exact(5001, None), is_exact(100, 2500)
    (True, False, False)
    """
    return rff_dim is None and n <= 2 * DEFAULT_RFF_DIM


def check_kernel(kernel: str, sigma: float | None, rff_dim: int | None = None) -> None:
    """Raise HapaxError unless the three fit each other."""
    if kernel not in ("cosine", "gaussian"):
        raise HapaxError(f"kernel is {kernel!r}; give 'cosine' or 'gaussian'.")
    if kernel == "cosine":
        for name, value in (("sigma", sigma), ("rff_dim", rff_dim)):
            if value is not None:
                raise HapaxError(f"{name} is {value}, but the cosine kernel has none; leave it out or use 'gaussian'.")
        return
    if sigma is None:
        raise HapaxError(
            "The Gaussian kernel needs sigma, in units of the embeddings; fix one for all that you compare, "
            "for example median_distance() of a reference set."
        )
    if not (sigma > 0 and math.isfinite(sigma)):
        raise HapaxError(f"sigma is {sigma}; give a finite number above 0.")
    if rff_dim is not None and rff_dim < 1:
        raise HapaxError(f"rff_dim is {rff_dim}; give the number of random frequencies, at least 1.")

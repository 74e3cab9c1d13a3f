"""Kernel covariances of pairs as sums that add up, and the Schur complement of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Sums over n pairs of features phi, fp64: what a score needs of them, whatever n is.

    Attributes:
        n: number of pairs.
        ii: [m, m] sum of phi(image) phi(image)^T.
        it: [m, m] sum of phi(image) phi(text)^T.
        tt: [m, m] sum of phi(text) phi(text)^T.
    """

    n: int
    ii: Tensor
    it: Tensor
    tt: Tensor

    @classmethod
    def zeros(cls, size: int, device: torch.device | None = None) -> Moments:
        """The sums over no pairs, for features of `size` numbers."""
        return cls(0, *(torch.zeros(size, size, dtype=torch.float64, device=device) for _ in range(3)))

    def add(self, image: Tensor, text: Tensor) -> Moments:
        """The sums with more rows of features [n, m]; the matrices are changed in place."""
        self.ii.addmm_(image.T, image)
        self.it.addmm_(image.T, text)
        self.tt.addmm_(text.T, text)
        return self._replace(n=self.n + len(image))

    def plus(self, other: Moments) -> Moments:
        """The sums over both."""
        return Moments(self.n + other.n, self.ii + other.ii, self.it + other.it, self.tt + other.tt)

    def minus(self, other: Moments) -> Moments:
        """The sums without a part of them."""
        return Moments(self.n - other.n, self.ii - other.ii, self.it - other.it, self.tt - other.tt)


class Parts(NamedTuple):
    """C_II = Lambda_I + Lambda_T: what the prompts leave open, and what they explain; [m, m] each."""

    image: Tensor
    text: Tensor


def schur_complement(moments: Moments, ridge: float) -> Parts:
    """Lambda_I = C_II - C_IT (C_TT + ridge)^-1 C_TI and its rest Lambda_T (arXiv 2412.18645, with a ridge).

    With L L^T = C_TT + ridge and H = L^-1 C_TI, Lambda_T is H^T H, so it has no negative eigenvalue by
    construction.
    """
    n, ii, it, tt = moments
    half = torch.linalg.solve_triangular(cholesky(tt / n, ridge), it.T / n, upper=False)
    text = half.T @ half
    return Parts(ii / n - text, text)


def regression(moments: Moments, ridge: float) -> Tensor:
    """B = (C_TT + ridge)^-1 C_TI [m, m'], by which text features phi_T B predict image features."""
    return torch.cholesky_solve(moments.it.T / moments.n, cholesky(moments.tt / moments.n, ridge))


def cholesky(matrix: Tensor, ridge: float) -> Tensor:
    """The lower factor of matrix + ridge."""
    shifted = matrix.clone()
    shifted.diagonal().add_(ridge)
    return torch.linalg.cholesky(shifted)

"""Cross-fitted residuals: what prompts explain is judged on pictures that had no part in the fit.

In the sample itself a regression also explains noise, the more so the more prompts differ. Here B is fitted
without each fold in turn. With r = phi_I - phi_T B the ridge Schur complement is E[r r^T] + ridge B^T B, so that
is what the folds estimate; it converges to the plain one as n grows.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from .moments import Moments, Parts, regression


def cross_fitted(folds: list[Moments], ridge: float) -> Parts:
    """Lambda_I from held-out residuals, and C_II - Lambda_I, from the sums over each fold.

    Where prompts predict worse than nothing, the second has negative eigenvalues.
    """
    total = reduce(Moments.plus, folds)
    image = torch.zeros_like(total.ii)
    for fold in folds:
        b = regression(total.minus(fold), ridge)
        crossed = fold.it @ b
        image += fold.ii - crossed - crossed.T + b.T @ fold.tt @ b + fold.n * ridge * b.T @ b
    image /= total.n
    return Parts(image, total.ii / total.n - image)


def cross_fitted_dual(k_image: Tensor, k_text: Tensor, fold: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues [n] of the same two, from Gram matrices [n, n]; `fold` [n] numbers each row's fold."""
    n = len(k_image)
    residual = torch.zeros_like(k_image)
    for number in range(int(fold.max()) + 1):
        held, rest = (fold == number).nonzero()[:, 0], (fold != number).nonzero()[:, 0]
        inner = k_text[rest][:, rest]
        m = torch.linalg.inv(inner + len(rest) * ridge * torch.eye(len(rest)).to(inner))
        r = torch.zeros(len(held), n).to(k_image)
        r[torch.arange(len(held)), held] = 1.0
        r[:, rest] = -k_text[held][:, rest] @ m
        residual += r.T @ r / n
        residual[rest[:, None], rest] += ridge * len(held) / n * m @ inner @ m
    values, vectors = torch.linalg.eigh(k_image)
    root = (vectors * values.clamp(min=0).sqrt()).T
    image = root @ residual @ root.T
    return torch.linalg.eigvalsh(image), torch.linalg.eigvalsh(torch.diag(values.clamp(min=0)) / n - image)

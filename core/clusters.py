"""Clusters of unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from .distinctiveness import unit_rows
from .errors import HapaxError

_ROUNDS, _STARTS = 50, 4


def cluster(offsets: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Spherical k-means (Dhillon and Modha 2001): the cluster of each row, [M] int64, biggest cluster first.

    Args:
        offsets: [M, C] directions; only where they point counts.
        count: clusters, 2 to M.

    Raises:
        HapaxError: a count outside 2 to M.
    """
    if not 2 <= count <= len(offsets):
        raise HapaxError(f"{count} clusters of {len(offsets)} directions can't be made; give 2 to {len(offsets)}.")
    u = unit_rows(offsets)
    generator = torch.Generator().manual_seed(seed)
    runs = [_k_means(u, count, generator) for _ in range(_STARTS)]
    labels = max(runs, key=lambda run: run[0])[1]
    order = torch.bincount(labels, minlength=count).argsort(descending=True, stable=True)
    return order.argsort()[labels]


def _k_means(u: Tensor, count: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """One run from random rows; the sum of cosines, and the labels."""
    centres = u[torch.randperm(len(u), generator=generator)[:count]]
    labels = torch.full((len(u),), -1)
    for _ in range(_ROUNDS):
        cosines, nearest = (u @ centres.T).max(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        sums = torch.zeros_like(centres).index_add_(0, labels, u)
        # A cluster that lost all rows starts anew at the row that fits worst.
        empty = torch.bincount(labels, minlength=count) == 0
        sums[empty] = u[cosines.argsort()[: int(empty.sum())]]
        centres = unit_rows(sums)
    return float(cosines.sum()), labels

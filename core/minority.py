"""Eq. 4 of RAIGen (arXiv 2602.06806) and the paper's pruning: pure functions of distances and frequencies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .distinctiveness import unit_rows
from .errors import HapaxError

Normalize = Literal["minmax", "rank"]


def minority_score(distance: Tensor, frequency: Tensor, *, normalize: Normalize = "minmax") -> Tensor:
    """Eq. 4: s = d (1 - nu) with d and nu normalised to [0, 1] over the given latents, [K]."""
    if normalize not in _NORMALIZERS:
        raise HapaxError(f"normalize is {normalize!r}; it must be one of {list(_NORMALIZERS)}")
    scale = _NORMALIZERS[normalize]
    return scale(distance) * (1 - scale(frequency))


def prune_redundant(centroids: Tensor, scores: Tensor, *, tau: float = 0.003, percentile: float = 90.0) -> Tensor:
    """The paper's pruning (App. E.1): from the best score down, drop what lies within tau of one kept.

    Args:
        centroids: [K, E] of the latents that fire.
        scores: [K] their minority scores.
        tau: cosine distance below which two centroids count as one.
        percentile: only scores above this percentile of all are kept.

    Returns:
        Indices kept, best first.
    """
    if len(scores) == 0:
        return torch.zeros(0, dtype=torch.int64)
    cutoff = torch.quantile(scores, percentile / 100)
    directions = unit_rows(centroids)
    redundant = torch.zeros(len(scores), dtype=torch.bool)
    kept = []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if scores[i] <= cutoff:
            break
        if not redundant[i]:
            kept.append(i)
            redundant |= (directions - directions[i]).square().sum(1) / 2 < tau
    return torch.tensor(kept, dtype=torch.int64)


def _minmax(x: Tensor) -> Tensor:
    if len(x) == 0:
        return x
    span = x.max() - x.min()
    # A column that is constant up to rounding tells nothing apart: zeros, not 0 / 0 nor magnified rounding.
    return (x - x.min()) / span if span > 1e-12 * x.abs().max() else torch.zeros_like(x)


def _rank(x: Tensor) -> Tensor:
    """Average ranks, scaled to [0, 1]."""
    # Equal but for rounding is equal: ranks would make a whole step of it.
    _, group, size = torch.unique(x.round(decimals=12), return_inverse=True, return_counts=True)
    below = size.cumsum(0) - size
    return (below + (size - 1) / 2)[group].double() / max(len(x) - 1, 1)


_NORMALIZERS = {"minmax": _minmax, "rank": _rank}

"""Is a caption's direction more than noise: split-half reliability, a permutation test.

All statistics are of d [R, C]: one caption's activations at R paired seeds, less the bank's mean at each seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distinctiveness import unit_rows

DRAWS = 1000


def split_half(d: Tensor) -> Tensor:
    """Cosine of the mean over even seeds with the mean over odd seeds, [...] for d [..., R, C], R >= 2."""
    halves = (unit_rows(d[..., i::2, :].mean(-2)) for i in (0, 1))
    return torch.linalg.vecdot(*halves)


def agreement(d: Tensor) -> Tensor:
    """Mean cosine between the displacements of different seeds, [...] fp64 for d [..., R, C].

    It is (|sum_r u_r|^2 - R) / (R (R - 1)) for the unit vectors u_r; 0 on average where seeds say nothing in common.

    >>> agreement(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    tensor(0.3333, dtype=torch.float64)
    """
    u = unit_rows(d)
    n = u.square().sum((-2, -1))
    pairs = d.shape[-2] * (d.shape[-2] - 1)
    return (u.sum(-2).square().sum(-1) - n) / pairs


def agreement_null(d: Tensor, draws: int = DRAWS, *, seed: int = 0) -> Tensor:
    """Agreement of captions that mean nothing: [draws].

    Each draw takes, seed by seed, the displacement of another random caption with a random sign. Its length and
    spread are the bank's own, but nothing is shared between its seeds.

    Args:
        d: [M, R, C] displacements of (some of) the bank.
    """
    generator = torch.Generator().manual_seed(seed)
    m, r, _ = d.shape
    rows = torch.randint(m, (draws, r), generator=generator)
    signs = torch.randint(2, (draws, r, 1), generator=generator) * 2 - 1
    u = unit_rows(d)
    seeds = torch.arange(r)
    return torch.cat([agreement(u[i, seeds] * s) for i, s in zip(rows.split(64), signs.split(64), strict=True)])


def sign_flip_null(d: Tensor, draws: int = DRAWS, *, seed: int = 0) -> Tensor:
    """Agreement of displacements d [R, C] whose directions are flipped at random: [draws]."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (draws, len(d)), generator=generator).double() * 2 - 1
    u = unit_rows(d)
    return ((signs @ u).square().sum(1) - len(d)) / (len(d) * (len(d) - 1))


def p_values(observed: Tensor, null: Tensor) -> Tensor:
    """One-sided (1 + #{null >= observed}) / (1 + B) for each of `observed` (Phipson and Smyth 2010)."""
    ranked = null.sort().values
    below = torch.searchsorted(ranked, observed.to(ranked.dtype).contiguous())
    return (1 + len(null) - below) / (1 + len(null))

"""What debiasing changes: bias and divergence from uniform over counted groups, recall and coverage of features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import HapaxError
from ..statistics import recentred_interval


def bias_score(counts: Sequence[int] | Tensor) -> float:
    """Bias over K groups, 2 / (K (K - 1)) * sum_{i<j} |n_i - n_j| / N (InvDiff, arXiv 2412.08480).

    0 is an even split; all in one group gives 2 / K. See `bias_floor` for what chance makes of an even split.

    Args:
        counts: `[K]` pictures in each group, K >= 2.

    Raises:
        HapaxError: fewer than two groups, a negative count, or nothing counted.

    >>> bias_score([90, 10]), bias_score([25, 25, 25, 25])
    (0.8, 0.0)
    """
    n = _counts(counts)
    return float(_bias(n))


def bias_interval(
    counts: Sequence[int] | Tensor, *, replicates: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the bias score with a bootstrap interval over pictures: (score, low, high)."""
    n = _counts(counts)
    low, high = recentred_interval(_bias(n), _bias(_resampled(n, replicates, seed)), confidence=confidence)
    return float(_bias(n)), max(0.0, float(low)), float(high)


def kl_interval(
    counts: Sequence[int] | Tensor, *, replicates: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Return the divergence from even shares with a bootstrap interval over pictures: (nats, low, high)."""
    n = _counts(counts)
    low, high = recentred_interval(_kl(n), _kl(_resampled(n, replicates, seed)), confidence=confidence)
    return kl_to_uniform(counts), max(0.0, float(low)), float(high)


def bias_floor(groups: int, pictures: int) -> float:
    """Return the bias score to expect of `pictures` drawn evenly from `groups`: 2 / sqrt(pi K N).

    From E|n_i - n_j| of a normal difference with variance 2 N / K.

    >>> round(bias_floor(2, 1000), 4), round(bias_floor(5, 100), 4)
    (0.0252, 0.0505)
    """
    return 2 / math.sqrt(math.pi * groups * pictures)


def kl_to_uniform(counts: Sequence[int] | Tensor) -> float:
    """Kullback-Leibler divergence of the groups' shares from even ones, in nats; log K if all are in one group.

    >>> kl_to_uniform([5, 5]), round(kl_to_uniform([10, 0]), 4)
    (0.0, 0.6931)
    """
    return max(0.0, float(_kl(_counts(counts))))


def recall(reference: Tensor, made: Tensor, *, k: int = 3) -> float:
    """Share of the reference that the made pictures reach (improved recall, arXiv 1904.06991, Eq. 2).

    A reference point counts if it lies within the distance from some made picture to that picture's k-th
    nearest neighbour among the made.

    Args:
        reference, made: features `[n, d]` and `[m, d]`, m > k.
    """
    return float((_distances(reference, made) <= _radii(made, k)).any(1).double().mean())


def coverage(reference: Tensor, made: Tensor, *, k: int = 5) -> float:
    """Share of reference points with a made picture among their k nearest (coverage, arXiv 2002.09797, Eq. 10).

    Unlike recall it isn't raised by made pictures far from all others.

    >>> points = torch.arange(8.0)[:, None]
    >>> coverage(points, points), coverage(points, points[:4] - 0.1, k=1)
    (1.0, 0.5)
    """
    return float((_distances(reference, made) <= _radii(reference, k)[:, None]).any(1).double().mean())


def normalised_mutual_information(a: Tensor, b: Tensor) -> float:
    """I(a; b) / ((H(a) + H(b)) / 2) of two labellings `[N]`; 0 if one of them is constant.

    Either may be soft: weights `[N, G]` whose rows sum to 1.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> round(normalised_mutual_information(labels, 1 - labels), 6)
    1.0
    """
    table = _memberships(a).T @ _memberships(b)
    joint = table / table.sum()
    entropies = [-float(torch.special.xlogy(p, p).sum()) for p in (joint.sum(1), joint.sum(0), joint.flatten())]
    mean = (entropies[0] + entropies[1]) / 2
    return max(0.0, entropies[0] + entropies[1] - entropies[2]) / mean if min(entropies[:2]) > 1e-12 else 0.0


def permutation_null(a: Tensor, b: Tensor, *, draws: int = 999, seed: int = 0) -> Tensor:
    """Return normalised mutual informations `[draws]` with the rows of `b` shuffled: what chance gives."""
    generator, a, b = torch.Generator().manual_seed(seed), _memberships(a), _memberships(b)
    orders = [torch.randperm(len(b), generator=generator) for _ in range(draws)]
    return torch.tensor([normalised_mutual_information(a, b[order]) for order in orders])


def _counts(counts: Sequence[int] | Tensor) -> Tensor:
    n = torch.as_tensor(counts, dtype=torch.float64)
    if n.ndim != 1 or len(n) < 2 or not bool((n >= 0).all()) or not float(n.sum()) > 0:
        raise HapaxError(f"counts is {counts}; give the pictures in each of two or more groups, at least one in all.")
    return n


def _resampled(n: Tensor, replicates: int, seed: int) -> Tensor:
    """Counts `[replicates, K]` of as many pictures drawn from those counted."""
    generator, total = torch.Generator().manual_seed(seed), int(n.sum())
    drawn = torch.multinomial(n / total, replicates * total, replacement=True, generator=generator)
    return torch.nn.functional.one_hot(drawn.view(replicates, total), len(n)).sum(1).double()


def _kl(n: Tensor) -> Tensor:
    """Divergence from even shares of counts `[..., K]`."""
    p = n / n.sum(-1, keepdim=True)
    return torch.special.xlogy(p, p).sum(-1) + math.log(n.shape[-1])


def _bias(n: Tensor) -> Tensor:
    """Bias of counts `[..., K]`."""
    groups = n.shape[-1]
    apart = (n[..., :, None] - n[..., None, :]).abs().sum((-1, -2)) / 2
    return 2 * apart / (groups * (groups - 1) * n.sum(-1))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double())


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other: [n]."""
    if not 1 <= k < len(x):
        raise HapaxError(f"k is {k} with {len(x)} pictures; give 1 <= k < the number of pictures.")
    return _distances(x, x).fill_diagonal_(0).kthvalue(k + 1, dim=1).values


def _memberships(labels: Tensor) -> Tensor:
    """Labels [N] or weights [N, G] as weights [N, G] in fp64."""
    if labels.ndim == 2:
        return labels.double()
    codes = torch.unique(labels, return_inverse=True)[1]
    return torch.nn.functional.one_hot(codes).double()

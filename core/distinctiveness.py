"""How far a feature's pictures lie from the rest, and how far they would lie by chance alone.

A centroid of few pictures is far from the mean of all whatever it stands for. So each distance comes with a
null: the distances of centroids of random pictures, drawn without replacement from the same embeddings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .statistics import bootstrap_weights, recentred_interval

PERMUTATIONS = 256
REPLICATES = 200
# Pictures looked at in one permutation. The finite number of all pictures enters through `_spread` alone, so
# a random part of them gives the same null and bounds the cost.
PICTURES = 1024
LATENTS = 256
# Numbers permuted at a time: 8 MB.
VALUES = 2**20
SHRINK = [0.5 ** (j / 2) for j in range(1, 13)]


def unit_rows(x: Tensor) -> Tensor:
    """Rows of x [N, E] scaled to norm 1, in fp64; a zero row stays zero."""
    x = x.double()
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """d = 1 - cos(x, y) along the last axis (RAIGen, arXiv 2602.06806, Sec. 4.2), in [0, 2], fp64.

    Computed as half the squared chord of the unit vectors, which loses no digits when d is tiny.
    A zero vector has no direction: its distance is 1.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), torch.tensor([1.0, 0.0]))
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    u, v = unit_rows(x), unit_rows(y)
    nonzero = (u != 0).any(-1) & (v != 0).any(-1)
    return torch.where(nonzero, (u - v).square().sum(-1) / 2, 1.0)


def canonical_order(rows: Tensor) -> Tensor:
    """Indices that sort rows [N, K] by their values, so that seeded draws ignore the pictures' order."""
    # Rounding keeps last-bit differences (another scale, another machine) from changing the order.
    keys = np.round(rows.double().numpy(), 9)
    return torch.from_numpy(np.lexsort(keys.T[::-1]))


@dataclass(frozen=True)
class CentroidNull:
    """Moments of d for centroids of random pictures, as functions of their spread.

    Under a permutation of the pictures a centroid with weights w has mean mu_D and covariance
    c * Sigma, c = (N sum w^2 - 1) / (N - 1), whatever the weights are. So d's null depends on them, to second
    order, through the effective number of pictures 1 / sum w^2 alone. The null is measured on random subsets
    of equal weight, for a ladder of sizes, and read off at the c of the weights in question. Where single
    pictures dominate, the true standard deviation is smaller than the one read off, and z errs towards 0.
    """

    n: int
    log_c: np.ndarray
    log_mean_over_c: np.ndarray
    std_over_c: np.ndarray
    skewness: np.ndarray

    def moments(self, effective: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation and skewness of d by chance, for effective numbers of pictures [L]."""
        c = _spread(self.n, effective.double()).clamp(0.0, 1.0).numpy()
        at = np.log(np.maximum(c, 1e-300))
        # Below the ladder d is proportional to c, so that the ratios stay as they are at its end.
        mean = np.exp(np.interp(at, self.log_c, self.log_mean_over_c)) * c
        std = np.interp(at, self.log_c, self.std_over_c) * c
        skewness = np.interp(at, self.log_c, self.skewness)
        return torch.from_numpy(mean), torch.from_numpy(std), torch.from_numpy(skewness)

    def test(self, distance: Tensor, effective: Tensor) -> tuple[Tensor, Tensor]:
        """How far chance is exceeded: z = (d - mean) / std and its one-sided p-value, both [L].

        d is skewed like a squared length, so that z > 3 happens by chance ten times as often as for a normal
        variable where embeddings vary in few directions. p comes from a gamma law with the null's three
        moments instead. z is 0 and p is 1/2 where chance has no spread, as for equal weights on all pictures.
        """
        mean, std, skewness = self.moments(effective)
        spread = std > 1e-20
        z = torch.where(spread, (distance - mean) / torch.where(spread, std, 1.0), 0.0)
        shape = 4 / skewness.clamp_min(0.02).square()
        p = torch.special.gammaincc(shape, (shape + z * shape.sqrt()).clamp_min(0.0))
        return z, torch.where(spread, p, 0.5)


def centroid_null(embeddings: Tensor, *, permutations: int = PERMUTATIONS, seed: int = 0) -> CentroidNull:
    """Measure the null of d on random subsets of the pictures.

    One permutation gives, by adding neighbours, disjoint subsets of sizes 1, 2, 3, 4, 6, 8, ... up to half
    of the pictures: many draws for each small size. Smaller c than half of the pictures have come from
    shrinking the largest subsets' offsets, which is what nearly equal weights on all pictures do.
    Cost: O(permutations * min(N, 1024) * E), independent of the number of latents.

    Args:
        embeddings: [N, E] unit rows, N >= 2.
    """
    e = embeddings[canonical_order(embeddings)]
    n = len(e)
    norm = e.mean(0).norm()
    subsets = _random_subsets(e, permutations, seed)
    draws = {_spread(n, size): _one_minus_cos(along, square) for size, (along, square) in subsets.items()}
    largest = max(subsets)
    along, square = subsets[largest]
    offset = along - norm
    offset_square = square - 2 * norm * offset - norm**2
    for shrink in SHRINK:
        square = norm**2 + 2 * shrink * norm * offset + shrink**2 * offset_square
        draws[_spread(n, largest) * shrink**2] = _one_minus_cos(norm + shrink * offset, square)
    spreads = np.array(sorted(draws))
    means = np.array([draws[c].mean().item() for c in spreads])
    stds = np.array([draws[c].std(correction=0).item() for c in spreads])
    return CentroidNull(
        n=n,
        log_c=np.log(spreads),
        log_mean_over_c=np.log(np.maximum(means, 1e-300) / spreads),
        std_over_c=stds / spreads,
        skewness=np.array([_skewness(draws[c]) for c in spreads]),
    )


def random_offsets(embeddings: Tensor, effective: float, draws: int, *, seed: int = 0) -> Tensor:
    """Offsets mu - mu_D [draws, E] of random subsets with about `effective` pictures: chance's directions."""
    e = embeddings[canonical_order(embeddings)]
    size = min(max(round(effective), 1), max(len(e) // 2, 1))
    generator = torch.Generator().manual_seed(seed)
    picked = torch.stack([torch.randperm(len(e), generator=generator)[:size] for _ in range(draws)])
    return torch.stack([e[rows].mean(0) for rows in picked]) - e.mean(0)


def bootstrap_distance(
    activations: Tensor, embeddings: Tensor, distance: Tensor, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """95 % interval of d when the pictures are resampled with replacement, recentred on d.

    It says how much d would move with other pictures; that few pictures push d upwards is z's business.

    Args:
        activations: [N, L] image-level activations, non-negative.
        embeddings: [N, E] unit rows.
        distance: [L] the d of Eq. 4.

    Returns:
        (low, high) [L], inside [0, 2]. Memory beyond the inputs: O(N * 256 + replicates * (N + L)).
    """
    if activations.shape[1] == 0:
        return distance, distance
    # Pictures with the same embedding are told apart by what fires on them.
    strength = torch.linalg.vector_norm(activations, dim=1, keepdim=True, dtype=torch.float64)
    order = canonical_order(torch.cat([embeddings, strength], 1))
    counts = torch.empty(replicates, len(embeddings), dtype=torch.float64)
    counts[:, order] = bootstrap_weights(len(embeddings), replicates, seed=seed)
    centre = unit_rows(counts @ embeddings)
    draws = torch.empty(activations.shape[1], replicates, dtype=torch.float64)
    for start in range(0, activations.shape[1], LATENTS):
        block = activations[:, start : start + LATENTS].T.double()
        for row, weights in enumerate(block, start):
            on = weights.nonzero().squeeze(1)
            mu = (counts[:, on] * weights[on]) @ embeddings[on]
            # A replicate without any of the feature's pictures has 0 / 0 here: NaN, left out below.
            draws[row] = 1 - (mu * centre).sum(1) / mu.norm(dim=1)
    low, high = recentred_interval(distance, draws)
    return low.clamp_min(0.0), high.clamp_max(2.0)


def _spread(n: int, effective):
    # c of CentroidNull for 1 / sum w^2 = effective; 1 for a single picture, 0 for all in equal parts.
    return (n / effective - 1) / (n - 1)


def _random_subsets(e: Tensor, permutations: int, seed: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Per size, the draws' centroids: their component along the mean of all, and their squared norm."""
    n = len(e)
    direction = unit_rows(e.mean(0))
    found: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, VALUES // min(n, PICTURES) // e.shape[1])
    for start in range(0, permutations, at_once):
        many = min(at_once, permutations - start)
        order = torch.rand(many, n, generator=generator, dtype=torch.float64).argsort(1)
        for size, sums in _subset_sums(e[order[:, :PICTURES]], limit=n // 2):
            along, square = sums @ direction / size, torch.linalg.vecdot(sums, sums) / size**2
            found[size].append((along.flatten(), square.flatten()))
    return {size: (torch.cat([a for a, _ in x]), torch.cat([s for _, s in x])) for size, x in found.items()}


def _subset_sums(rows: Tensor, limit: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (size, sums) of disjoint neighbours along axis 1, for sizes 2^j and 3 * 2^j up to limit."""
    for size in (1, 3):
        whole = rows.shape[1] // size * size
        sums = sum((rows[:, i:whole:size] for i in range(1, size)), start=rows[:, :whole:size])
        while size <= limit and sums.shape[1]:
            yield size, sums
            even = sums.shape[1] // 2 * 2
            sums, size = sums[:, 0:even:2] + sums[:, 1:even:2], size * 2


def _one_minus_cos(along: Tensor, square: Tensor) -> Tensor:
    # Embeddings that cancel have no direction: distance 1.
    return 1 - along / square.clamp_min(0.0).sqrt().clamp_min(1e-12)


def _skewness(x: Tensor) -> float:
    centred = x - x.mean()
    std = centred.square().mean().sqrt()
    return ((centred / std) ** 3).mean().item() if std > 1e-20 else 0.0

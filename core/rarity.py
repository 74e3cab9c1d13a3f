"""Which latents are rare and stand for something: the minority score (RAIGen, arXiv 2602.06806, Sec. 4.2).

From recorded tokens to a ranked table: `pool_activations` gives one number per picture and latent,
`score_features` ranks the latents, and what chance explains is marked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distinctiveness import bootstrap_distance, unit_rows
from .feature_stats import MIN_SUPPORT, FeatureStats
from .feature_table import FeatureTable
from .minority import Normalize, minority_score, prune_redundant
from .pooling import pool_activations

__all__ = ["FeatureStats", "FeatureTable", "pool_activations", "score_features", "score_official"]


def score_features(
    activations: Tensor,
    embeddings: Tensor,
    *,
    normalize: Normalize = "minmax",
    min_support: int = MIN_SUPPORT,
    seed: int = 0,
) -> FeatureTable:
    """Rank latents by minority score s = d (1 - nu), d and nu normalised over those that fire (Eq. 2-4).

    Beyond the paper, each row says what is known about it: intervals, and the distance in standard deviations
    above that of equally many random pictures. Only a row with z > 3 on min_support pictures is a finding,
    and only if its p-value, which knows that the null is skewed, is that of three standard deviations too.

    Args:
        activations: [N_img, L] image-level activations, >= 0, any float dtype (see `pool_activations`).
        embeddings: [N_img, E] image embeddings (CLIP's or another's) of the same pictures, of any norm.
        normalize: "minmax" as in the paper; "rank" keeps one outlier from rescaling all others.
        min_support: fewest pictures on which a finding fires; at least 1.
        seed: of the null's and the bootstrap's draws. The order of the pictures changes nothing.

    Returns:
        The latents that fire at all, best first; ties go to the rarer, then to the lower index.

    Raises:
        HapaxError: fewer than 2 pictures, pictures that don't match, NaN, negative activations, zero
            embeddings, or an unknown normalize.

    Example:
        >>> z = torch.zeros(100, 2)
        >>> z[:6, 0], z[:50, 1] = 1.0, 1.0
        >>> e = torch.nn.functional.one_hot(torch.tensor([0] * 6 + [1, 2] * 47), 3)
        >>> score_features(z, e).rows()[0]["latent"]
        0
    """
    activations, embeddings = activations.detach().cpu(), embeddings.detach().cpu()
    stats = FeatureStats.of(activations, embeddings)
    low, high = torch.zeros_like(stats.sum_z), torch.full_like(stats.sum_z, 2.0)
    # One picture alone hardly moves when resampled: too few have no interval rather than a narrow one.
    known = stats.count >= max(min_support, 1)
    low[known], high[known] = bootstrap_distance(
        activations[:, known], unit_rows(embeddings), stats.distance[known], seed=seed
    )
    return stats.compute(embeddings, normalize=normalize, min_support=min_support, seed=seed, interval=(low, high))


def score_official(activations: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """What RAIGen's published code keeps: (latents, scores), best first, on the same activations.

    For comparison with published results; it has no null, no interval and no support. The published code also
    pools activations of uncentred tokens at the last step: see `pool_activations(which="last")`.
    """
    stats = FeatureStats.of(activations.detach().cpu(), embeddings.detach().cpu())
    live = (stats.count > 0).nonzero().squeeze(1)
    scores = minority_score(stats.distance[live], stats.frequency[live])
    kept = prune_redundant(stats.centroids[live], scores)
    return live[kept], scores[kept]

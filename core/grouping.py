"""Latents that say the same thing, so that one attribute does not fill the whole list.

The paper's pruning (centroid distance below .003) hardly ever fires: chance alone moves the centroids of two
latents of one attribute further apart. Both measures here are corrected for chance instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .distinctiveness import unit_rows
from .errors import HapaxError
from .feature_stats import check_pictures
from .feature_table import FeatureTable


def group_latents(
    activations: Tensor,
    embeddings: Tensor,
    table: FeatureTable,
    *,
    overlap: float = 0.5,
    likeness: float = 0.9,
    top: int = 256,
) -> list[list[int]]:
    """Put latents that say the same thing together, greedily from the top of the ranking.

    Each latent joins the most similar representative among those that it overlaps by `overlap` or resembles
    by `likeness`; where there is none, it becomes one. Latents are compared with representatives only, so
    that groups do not drift.

    Args:
        activations: [N_img, L] the image-level activations that were scored.
        embeddings: [N_img, E] the embeddings that were scored.
        table: what `score_features` made of them, or a part of it, such as its findings.
        overlap: correlation over pictures, from 0 for chance to 1 (`picture_overlap`).
        likeness: cosine of what the latents' pictures have in common (`centroid_likeness`); used between
            findings only, since for the others nothing in common has been shown.
        top: only so many rows of the table are grouped: the cost grows with the square.

    Returns:
        Groups in the order of their best latent; each a list of latents, that best one first.

    Raises:
        HapaxError: pictures as in `score_features`, or a latent that the activations do not have.
    """
    activations, embeddings = activations.detach().cpu(), embeddings.detach().cpu()
    check_pictures(activations, embeddings)
    rows = table[:top]
    if len(rows) and int(rows.latent.max()) >= activations.shape[1]:
        raise HapaxError(
            f"the table names latent {int(rows.latent.max())} but there are activations of "
            f"{activations.shape[1]} latents; pass the activations that were scored"
        )
    z = activations[:, rows.latent].double()
    shared = picture_overlap(z)
    alike = centroid_likeness(z, unit_rows(embeddings))
    shown = rows.finding.unsqueeze(0) & rows.finding.unsqueeze(1)
    same = (shared >= overlap) | (shown & (alike >= likeness))
    similarity = torch.maximum(shared, torch.where(shown, alike, -1.0))
    return [[int(rows.latent[i]) for i in group] for group in _greedy(same, similarity)]


def group_strength(z: Tensor, group: list[int]) -> Tensor:
    """How strong a feature is in each picture: its latents' activations, each in units of its largest, averaged.

    A picture on which one latent errs is not one on which all do.

    Args:
        z: [N, L] image-level activations, 0 where a latent does not fire.
        group: latents that say the same.

    Returns:
        [N] in [0, 1].

    Example:
        >>> group_strength(torch.tensor([[4.0, 1.0], [2.0, 0.0], [0.0, 0.0]]), [0, 1])
        tensor([1.0000, 0.2500, 0.0000])
    """
    chosen = z[:, group]
    return (chosen / chosen.amax(0).clamp_min(torch.finfo(z.dtype).tiny)).mean(1)


def picture_overlap(z: Tensor) -> Tensor:
    """How far latents fire on the same pictures beyond chance: [K, K] in [-1, 1], 0 when independent.

    The larger of two correlations over pictures: of whether they fire (phi) and of how strongly. Phi is not
    misled by one strong picture, the other not by latents that fire a little everywhere. Unlike shared
    pictures or their Jaccard index, neither grows with the latents' frequency.

    Args:
        z: [N, K] activations.
    """
    return torch.maximum(_correlation((z > 0).double()), _correlation(z.double()))


def centroid_likeness(z: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine between the latents' offsets mu_i - mu_D with chance's part taken out: [K, K] in [-1, 1].

    Offsets of few pictures are mostly noise, which hides likeness, and noise from shared pictures feigns it.
    With v = w - 1/N the offset is sum v e, and chance adds tr(Sigma) N / (N - 1) * sum v_i v_j to the inner
    product of two of them, whatever they stand for. What remains is compared. So two latents that split one
    attribute's pictures between them come out alike. 0 where nothing remains.

    Args:
        z: [N, K] activations, each latent firing at least once.
        embeddings: [N, E] unit rows.
    """
    n = len(z)
    v = z / z.sum(0) - 1 / n
    offsets = v.T @ embeddings
    variance = (embeddings - embeddings.mean(0)).square().sum() / n
    inner = offsets @ offsets.T - variance * n / max(n - 1, 1) * (v.T @ v)
    size = inner.diagonal().clamp_min(0.0).sqrt()
    norms = torch.outer(size, size)
    return torch.where(norms > 0, inner / norms.clamp_min(1e-300), 0.0).clamp(-1.0, 1.0)


def _correlation(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    scale = centred.norm(dim=0)
    # A constant column correlates with nothing; rounding must not turn it into one that does.
    constant = scale <= 1e-12 * x.norm(dim=0)
    unit = torch.where(constant, 0.0, centred / scale.clamp_min(1e-300))
    return (unit.T @ unit).clamp(-1.0, 1.0)


def _greedy(same: Tensor, similarity: Tensor) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in range(len(same)):
        candidates = [group for group in groups if same[i, group[0]]]
        if candidates:
            max(candidates, key=lambda group: float(similarity[i, group[0]])).append(i)
        else:
            groups.append([i])
    return groups

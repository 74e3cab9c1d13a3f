"""Sums over pictures from which every latent is scored: one pass, O(latents * E) memory, mergeable."""

from __future__ import annotations

import torch
from torch import Tensor

from .distinctiveness import centroid_null, cosine_distance, unit_rows
from .errors import HapaxError
from .feature_table import FeatureTable
from .minority import Normalize, minority_score
from .statistics import wilson_interval

FINDING_Z = 3.0
# The tail of a normal variable beyond FINDING_Z: the null is skewed, and z > 3 alone would let noise through.
FINDING_P = 0.00135
MIN_SUPPORT = 5
# Pictures converted to fp64 at a time: 40 MB for 20,480 latents.
PICTURES = 256


def check_pictures(activations: Tensor, embeddings: Tensor) -> None:
    """Refuse activations [N, L] and embeddings [N, E] that can't be scored.

    Raises:
        HapaxError: shapes that don't belong together, NaN or infinite values, negative activations, or an
            embedding of norm 0.
    """
    if activations.dim() != 2 or embeddings.dim() != 2 or len(activations) != len(embeddings):
        raise HapaxError(
            f"activations have shape {tuple(activations.shape)} and embeddings {tuple(embeddings.shape)}; "
            "expected [pictures, latents] and [pictures, E] with one row per picture in the same order"
        )
    for name, x in (("activations", activations), ("embeddings", embeddings)):
        bad = (~torch.isfinite(x)).any(1)
        if bad.any():
            raise HapaxError(
                f"{name} hold NaN or infinite values in {int(bad.sum())} of {len(x)} pictures, the first "
                f"in picture {int(bad.nonzero()[0])}; leave those pictures out of both"
            )
    if activations.numel() and activations.min() < 0:
        raise HapaxError(
            f"activations go down to {activations.min().item():.3g} but must be >= 0; "
            "pass what the autoencoder's encode() returns, averaged per picture"
        )
    if len(embeddings) and not embeddings.any(1).all():
        raise HapaxError("an embedding is all zeros and has no direction; leave that picture out of both")


class FeatureStats:
    """Running sums over pictures: how often and how strongly each latent fires, and on what.

    Feed blocks of pictures with `update`, join the accumulators of several processes with `merge`. Everything
    is summed in fp64, so the result does not depend on how the pictures were cut, up to rounding.

    Args:
        n_latents: L.
        e_dim: E, the width of the image embeddings.

    Example:
        >>> stats = FeatureStats(1, 2)
        >>> _ = stats.update(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> stats.n, stats.frequency.item(), stats.centroids.tolist()
        (2, 0.5, [[0.0, 1.0]])
    """

    def __init__(self, n_latents: int, e_dim: int) -> None:
        self.n = 0
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.sum_z = torch.zeros(n_latents, dtype=torch.float64)
        self.sum_z2 = torch.zeros(n_latents, dtype=torch.float64)
        self.sum_ze = torch.zeros(n_latents, e_dim, dtype=torch.float64)
        self.sum_e = torch.zeros(e_dim, dtype=torch.float64)

    @classmethod
    def of(cls, activations: Tensor, embeddings: Tensor) -> FeatureStats:
        """The sums over pictures held in memory: activations [N_img, L], embeddings [N_img, E]."""
        check_pictures(activations, embeddings)
        stats = cls(activations.shape[1], embeddings.shape[1])
        for z, e in zip(activations.split(PICTURES), embeddings.split(PICTURES), strict=True):
            stats._add(z, e)
        return stats

    def update(self, z: Tensor, e: Tensor) -> FeatureStats:
        """Add pictures.

        Args:
            z: [B, L] image-level activations, >= 0.
            e: [B, E] image embeddings of any norm; they are scaled to norm 1.

        Raises:
            HapaxError: as in `check_pictures`, or another L or E than the accumulator's.
        """
        z, e = z.detach().cpu(), e.detach().cpu()
        check_pictures(z, e)
        if (z.shape[1], e.shape[1]) != tuple(self.sum_ze.shape):
            raise HapaxError(
                f"pictures have {z.shape[1]} latents and embeddings of width {e.shape[1]}; this accumulator "
                f"was made for {self.sum_ze.shape[0]} and {self.sum_ze.shape[1]}"
            )
        return self._add(z, e)

    def _add(self, z: Tensor, e: Tensor) -> FeatureStats:
        z, e = z.double(), unit_rows(e)
        self.n += len(z)
        self.count += (z > 0).sum(0)
        self.sum_z += z.sum(0)
        self.sum_z2 += z.square().sum(0)
        self.sum_ze += z.T @ e
        self.sum_e += e.sum(0)
        return self

    def merge(self, other: FeatureStats) -> FeatureStats:
        """Add another accumulator's pictures to this one; the order of merges does not matter.

        Raises:
            HapaxError: the other one has another L or E.
        """
        if other.sum_ze.shape != self.sum_ze.shape:
            raise HapaxError(
                f"can't merge sums over {tuple(other.sum_ze.shape)} into {tuple(self.sum_ze.shape)} "
                "(latents, E); both must come from the same autoencoder and image encoder"
            )
        for name in ("n", "count", "sum_z", "sum_z2", "sum_ze", "sum_e"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def frequency(self) -> Tensor:
        """Eq. 2: nu_i = #{z_i > 0} / N, [L]."""
        return self.count.double() / max(self.n, 1)

    @property
    def centroids(self) -> Tensor:
        """Eq. 3: mu_i = sum z_i e / sum z_i, [L, E]; zeros for a latent that never fires."""
        return self.sum_ze / self.sum_z.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(1)

    @property
    def mean(self) -> Tensor:
        """mu_D: mean embedding of all pictures, [E]."""
        return self.sum_e / max(self.n, 1)

    @property
    def distance(self) -> Tensor:
        """d_i = 1 - cos(mu_i, mu_D), [L]."""
        return cosine_distance(self.centroids, self.mean)

    @property
    def effective(self) -> Tensor:
        """Effective number of pictures in each centroid, (sum z)^2 / sum z^2, [L]; 0 for a dead latent."""
        return self.sum_z.square() / self.sum_z2.clamp_min(torch.finfo(torch.float64).tiny)

    def compute(
        self,
        embeddings: Tensor,
        *,
        normalize: Normalize = "minmax",
        min_support: int = MIN_SUPPORT,
        seed: int = 0,
        interval: tuple[Tensor, Tensor] | None = None,
    ) -> FeatureTable:
        """Rank the latents that fire; arguments and columns as in `rarity.score_features`.

        Args:
            embeddings: [N_img, E] of the pictures that were added, in any order; they make the null.
            interval: (low, high) [L] of the distance, for which sums are not enough; without it the columns
                distinctiveness_low and _high hold 0 and 2, all that is known.

        Raises:
            HapaxError: fewer than 2 pictures, or embeddings of other pictures.
        """
        e = self._own(embeddings)
        live = (self.count > 0).nonzero().squeeze(1)
        low, high = interval or (torch.zeros_like(self.sum_z), torch.full_like(self.sum_z, 2.0))
        count, frequency, distance = self.count[live], self.frequency[live], self.distance[live]
        frequency_low, frequency_high = wilson_interval(count, self.n)
        z, p = centroid_null(e, seed=seed).test(distance, self.effective[live])
        score = minority_score(distance, frequency, normalize=normalize)
        rarest_first = torch.argsort(count, stable=True)
        ranking = rarest_first[torch.argsort(score[rarest_first].round(decimals=12), descending=True, stable=True)]
        return FeatureTable(
            latent=live,
            count=count,
            effective=self.effective[live],
            frequency=frequency,
            frequency_low=frequency_low,
            frequency_high=frequency_high,
            distinctiveness=distance,
            distinctiveness_low=low[live],
            distinctiveness_high=high[live],
            distinctiveness_z=z,
            distinctiveness_p=p,
            score=score,
            finding=(z > FINDING_Z) & (p < FINDING_P) & (count >= min_support),
        )[ranking]

    def _own(self, embeddings: Tensor) -> Tensor:
        e = unit_rows(embeddings.detach().cpu())
        if e.shape != (self.n, len(self.sum_e)) or (e.sum(0) - self.sum_e).abs().max() > 1e-6 * self.n:
            raise HapaxError(
                f"embeddings of shape {tuple(e.shape)} are not those of the {self.n} pictures of width "
                f"{len(self.sum_e)} that were added; pass the same ones, in any order"
            )
        if self.n < 2:
            raise HapaxError(f"found {self.n} pictures; rarity is a share of pictures and needs at least 2")
        return e

"""Names for features by CLIP: the phrases of a bank whose text embeddings lie where the feature points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .distinctiveness import random_offsets, unit_rows
from .errors import HapaxError
from .feature_stats import FeatureStats
from .statistics import permutation_p

NULL_DRAWS = 1000
PHRASES = Path(__file__).with_name("phrases.txt")


@dataclass(frozen=True, eq=False)
class FeatureCentroid:
    """What a labeller may look at.

    Attributes:
        latent: index in the SAE.
        mean: mu_i [E], centroid of the image embeddings (Eq. 3 of RAIGen).
        dataset_mean: mu_D [E].
        effective: effective number of pictures behind mean.
        displacement: [C] by what the denoiser's activations differ where the feature shows, for labellers that look at
            those.
    """

    latent: int
    mean: Tensor
    dataset_mean: Tensor
    effective: float
    displacement: Tensor | None = None

    @classmethod
    def of(cls, stats: FeatureStats, latent: int, displacement: Tensor | None = None) -> FeatureCentroid:
        """One latent's centroid out of the sums it was scored from."""
        if not 0 <= latent < len(stats.count) or stats.count[latent] == 0:
            raise HapaxError(f"latent {latent} fires on none of the {stats.n} pictures, so it has no centroid")
        effective = float(stats.effective[latent])
        return cls(latent, stats.centroids[latent], stats.mean, effective, displacement)


class Labeller(Protocol):
    """Whatever can name a feature: captions ranked by CLIP here, an index of captions elsewhere."""

    def label(self, feature: FeatureCentroid) -> list[tuple[str, float]]:
        """Names with scores, best first; empty when no name is better than chance."""
        ...


def rank_phrases(
    feature_mean: Tensor,
    dataset_mean: Tensor,
    phrase_embeddings: Tensor,
    phrases: Sequence[str],
    k: int = 5,
    *,
    null_directions: Tensor | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> list[tuple[str, float]] | None:
    """Rank phrases by the cosine between (phrase - mean phrase) and mu_i - mu_D.

    Both differences drop what all texts and all images have in common, which in CLIP outweighs what they
    show. Some phrase is always nearest. So the best cosine is compared with the best cosines of directions
    that mean nothing; where that leaves a p-value above alpha, no phrase is a good name.

    Args:
        feature_mean: [E] mu_i.
        dataset_mean: [E] mu_D.
        phrase_embeddings: [M, E] text embeddings of any norm, M >= 2.
        phrases: their M texts.
        k: how many to return.
        null_directions: [R, E] offsets of random pictures with the feature's support
            (`distinctiveness.random_offsets`), in the units of mu_i - mu_D. Without them only cosines are tested.
        alpha: largest p-value at which a name is given.
        seed: of the isotropic directions.

    Returns:
        [(phrase, cosine)], best first, or None: no good name.

    Raises:
        HapaxError: shapes that do not belong together, values that are not finite, or fewer than 2 phrases.
    """
    offset = (feature_mean.double() - dataset_mean.double()).detach().cpu()
    bank = _bank(phrase_embeddings.detach().cpu(), phrases)
    if offset.shape != bank.shape[1:] or not torch.isfinite(offset).all():
        raise HapaxError(
            f"feature_mean {tuple(feature_mean.shape)} and dataset_mean {tuple(dataset_mean.shape)} must be "
            f"finite vectors of the phrases' width {bank.shape[1]}; embed phrases and images with one model"
        )
    if k < 1:
        raise HapaxError(f"k is {k}; at least 1 phrase must be asked for")
    generator = torch.Generator().manual_seed(seed)
    isotropic = unit_rows(torch.randn(NULL_DRAWS, len(offset), generator=generator, dtype=torch.float64))
    cosines = bank @ unit_rows(offset)
    chance = [permutation_p(float(cosines.max()), (isotropic @ bank.T).amax(1))]
    if null_directions is not None:
        chance.append(permutation_p(float((bank @ offset).max()), (null_directions.double() @ bank.T).amax(1)))
    if max(chance) > alpha:
        return None
    best = torch.argsort(cosines, descending=True, stable=True)[:k]
    return [(phrases[int(i)], float(cosines[i])) for i in best]


def default_phrases() -> tuple[str, ...]:
    """The candidate names that come with Hapax, for CLIP models that know the world."""
    lines = (line.strip() for line in PHRASES.read_text("utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


class PhraseLabeller:
    """Names features from a fixed list of phrases.

    Args:
        phrases: M texts, such as "a woman", "a line sketch".
        phrase_embeddings: [M, E] their embeddings.
        image_embeddings: [N, E] the embeddings that were scored; random subsets of them are the null.
        k: names a feature.
        alpha: as in `rank_phrases`.
        seed: of the null's draws.
    """

    def __init__(
        self,
        phrases: Sequence[str],
        phrase_embeddings: Tensor,
        image_embeddings: Tensor,
        *,
        k: int = 5,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.phrases = list(phrases)
        self.phrase_embeddings = phrase_embeddings
        self.image_embeddings = unit_rows(image_embeddings.detach().cpu())
        self.k = k
        self.alpha = alpha
        self.seed = seed

    def label(self, feature: FeatureCentroid) -> list[tuple[str, float]]:
        """Names with cosines, best first; empty when random pictures of like number do as well."""
        null = random_offsets(self.image_embeddings, feature.effective, NULL_DRAWS, seed=self.seed)
        named = rank_phrases(
            feature.mean,
            feature.dataset_mean,
            self.phrase_embeddings,
            self.phrases,
            self.k,
            null_directions=null,
            alpha=self.alpha,
        )
        return named or []


def _bank(phrase_embeddings: Tensor, phrases: Sequence[str]) -> Tensor:
    if phrase_embeddings.dim() != 2 or len(phrase_embeddings) != len(phrases) or len(phrases) < 2:
        raise HapaxError(
            f"{len(phrases)} phrases come with embeddings of shape {tuple(phrase_embeddings.shape)}; "
            "expected one row for each of at least 2 phrases"
        )
    if not torch.isfinite(phrase_embeddings).all():
        raise HapaxError("phrase_embeddings hold NaN or infinite values; embed the phrases again")
    unit = unit_rows(phrase_embeddings)
    return unit_rows(unit - unit.mean(0))

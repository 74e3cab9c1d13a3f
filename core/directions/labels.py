"""Names for features from a caption index: what the denoiser itself does under captions, not what CLIP says."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import HapaxError
from ..labels import FeatureCentroid
from .index import CaptionIndex


@dataclass(frozen=True, eq=False)
class CaptionLabeller:
    """Names features by the captions whose activations change as the feature's do; see `labels.Labeller`.

    Attributes:
        index: built at the autoencoder's site of the same model.
        k: names a feature.
    """

    index: CaptionIndex
    k: int = 5

    def label(self, feature: FeatureCentroid) -> list[tuple[str, float]]:
        """Names with cosines, best first; empty when none is better than chance.

        Raises:
            HapaxError: the feature has no displacement.
        """
        if feature.displacement is None:
            raise HapaxError(f"Latent {feature.latent} has no displacement, so an index can't name it; give it one.")
        return self.index.name(feature.displacement, self.k).names

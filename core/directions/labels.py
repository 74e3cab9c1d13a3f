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

        `feature.decoder` should be the displacement that makes the feature show (the profile's levels times its
        decoder rows): one decoder row alone points elsewhere.

        Raises:
            HapaxError: the feature has no decoder row.
        """
        if feature.decoder is None:
            raise HapaxError(f"Latent {feature.latent} has no decoder row, so captions can't name it; give it one.")
        return self.index.name(feature.decoder, self.k).names

"""What a feature's pictures have in common as CLIP sees it: a direction and a threshold, found without labels.

A latent fires on pictures that lack what it stands for and stays silent on some that have it, so its firing rate
is not the attribute's prevalence. The look starts from the pictures on which the feature is strongest and lets
CLIP say which other pictures are of that kind. The share of those is the prevalence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import HapaxError
from .exemplars import exemplars
from .firing import otsu_thresholds
from .prevalence import share

# Attributes of 16 in 1,000 pictures are to be found: more first pictures than this would hold others too.
FIRST_PICTURES = 10
ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Look:
    """A half-space of CLIP's embeddings: pictures e with (e - centre) . direction > threshold show the feature.

    Attributes:
        centre: [E] mean embedding of the prompt's pictures.
        direction: [E]; over the prompt's pictures scores have mean 0 and variance 1.
        threshold: in those units.
        plain: score that three quarters of the pictures that show the feature by themselves exceed.
    """

    centre: Tensor
    direction: Tensor
    threshold: float
    plain: float

    def scores(self, embeddings: Tensor) -> Tensor:
        """How much pictures [n, E] look like the feature: [n] fp64."""
        return (embeddings.double() - self.centre) @ self.direction

    def rate(self, embeddings: Tensor) -> dict[str, float | int]:
        """In how many of the pictures [n, E] the feature shows, with a 95 % Wilson interval."""
        return share(self.scores(embeddings) > self.threshold)


@dataclass(frozen=True, eq=False)
class Seen:
    """A look with what it says of the pictures that it was fitted on, each judged by a look fitted without it.

    Attributes:
        look: for other pictures.
        scores: [N] how much each picture looks like the feature.
        shown: [N] bool.
        separation: distance between the medians of those that show it and those that don't, in standard
            deviations of the latter.
    """

    look: Look
    scores: Tensor
    shown: Tensor
    separation: float


class LookFitter:
    """Fits looks on the pictures of one prompt.

    Args:
        embeddings: [N, E] unit embeddings of the pictures, N >= 3.
    """

    def __init__(self, embeddings: Tensor) -> None:
        if embeddings.dim() != 2 or len(embeddings) < 3 or not bool(torch.isfinite(embeddings).all()):
            raise HapaxError(
                f"embeddings have shape {tuple(embeddings.shape)}; expected finite [pictures, E] of 3 pictures or more"
            )
        self.centre = embeddings.double().mean(0)
        self.x = embeddings.double() - self.centre
        self.covariance = shrunk_covariance(self.x)
        self.inverse = torch.linalg.inv(self.covariance)

    def fit(self, strength: Tensor) -> Seen | None:
        """The look of the pictures on which a feature is strong; None if they have none in common.

        Fisher's discriminant between those pictures and all, Otsu's threshold, and again from the pictures beyond
        it, until these stay the same: the first few are often alike in more than the feature.

        Args:
            strength: [N] of the feature in each picture, 0 where it does not fire.
        """
        return self.grow(exemplars(strength, FIRST_PICTURES))

    def grow(self, members: Tensor) -> Seen | None:
        """The look of these pictures [k] and of whichever others have it; None as in `fit`."""
        members = members.sort().values
        if not self._some(members):
            return None
        scores, threshold = self._split(members)
        for _ in range(ROUNDS - 1):
            beyond = (scores > threshold).nonzero().flatten()
            if torch.equal(beyond, members):
                break
            if not self._some(beyond):
                return None
            members = beyond
            scores, threshold = self._split(members)
        shown = scores > threshold
        rest = scores[~shown]
        gap = scores[shown].median() - rest.median()
        look = Look(
            self.centre, self._direction(self.x[members].mean(0)), threshold, float(scores[shown].quantile(0.25))
        )
        return Seen(look, scores, shown, float(gap / rest.std().clamp_min(1e-12)))

    def _some(self, members: Tensor) -> bool:
        return 2 <= len(members) < len(self.x)

    def _split(self, members: Tensor) -> tuple[Tensor, float]:
        """Scores [N] by a look of these pictures, and the threshold that splits them best."""
        scores = self._scores(members)
        return scores, float(otsu_thresholds(scores[:, None])[0])

    def _direction(self, offset: Tensor) -> Tensor:
        """Fisher's discriminant for a class whose mean lies at `offset` [..., E], scaled to unit variance."""
        w = offset @ self.inverse
        return w / torch.einsum("...i,ij,...j->...", w, self.covariance, w).sqrt().clamp_min(1e-12)[..., None]

    def _scores(self, members: Tensor) -> Tensor:
        """Scores [N] of all pictures, each member's from the other members: or few members would fit themselves."""
        own, k = self.x[members], len(members)
        mean = own.mean(0)
        scores = self.x @ self._direction(mean)
        scores[members] = (own * self._direction((k * mean - own) / (k - 1))).sum(1)
        return scores


def shrunk_covariance(x: Tensor) -> Tensor:
    """Covariance of centred rows x [N, E], shrunk towards a multiple of the identity [E, E], invertible.

    The oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010, Eq. 23); a floor keeps directions
    in which nothing varies from dominating.
    """
    n, p = x.shape
    s = x.T @ x / n
    square, trace = (s * s).sum(), s.trace()
    spread = square - trace.square() / p
    weight = ((1 - 2 / p) * square + trace.square()) / ((n + 1 - 2 / p) * spread.clamp_min(1e-300))
    weight = weight.clamp(1e-4, 1.0)
    return (1 - weight) * s + weight * trace / p * torch.eye(p, dtype=s.dtype)

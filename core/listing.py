"""Which groups of latents are listed: those with a look of their own, each attribute once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .grouping import centroid_likeness, group_strength
from .look import LookFitter, Seen

# Standard deviations between the pictures with a look and those without; a Gaussian cut in two anywhere has 3 at most.
SEPARATION = 4.0
SHARED = 0.5
# Red things at night and blue things at night are half alike; things at night and things in sepia are less.
RELATED = 0.5
# Of each of two looks' pictures, so many must show the look that takes their place.
KEPT = 0.9


class Listed(NamedTuple):
    """A listed feature.

    Attributes:
        group: latents that say the same, best first.
        leads: the best latent of each group that was joined to make this one; else the first of the group alone.
        seen: what its pictures have in common.
    """

    group: list[int]
    leads: list[int]
    seen: Seen


def list_looks(
    pooled: Tensor, embeddings: Tensor, groups: list[list[int]], *, rare: float, min_support: int, listed: int
) -> list[Listed]:
    """Keep groups whose pictures have a look of their own that few pictures have, and none twice.

    A look is one's own when a gap separates its pictures from the rest and they are not, for the greater part,
    those of a better group. Where attributes mix, latents stand for combinations: red at night, blue at night. Related
    groups become one if a single look holds both and stands further apart than either did, as the look of what they
    share does, but not that of two things side by side.

    Args:
        pooled: [N, L] image-level activations.
        embeddings: [N, E] unit embeddings.
        groups: latents that say the same, the best group first.
        rare: the largest share of the pictures.
        min_support: the fewest pictures.
        listed: the most groups to return.
    """
    fitter, kept = LookFitter(embeddings), list[Listed]()
    most = rare * len(pooled)

    def passes(seen: Seen) -> bool:
        return seen.separation >= SEPARATION and min_support <= int(seen.shown.sum()) <= most

    for group in groups:
        if len(kept) == listed:
            break
        seen = fitter.fit(group_strength(pooled, group))
        if seen is None or not passes(seen) or any(_shared(seen.shown, other.seen.shown) >= SHARED for other in kept):
            continue
        place, joint = _relative(fitter, kept, seen, embeddings)
        if joint is not None and passes(joint):
            kept[place] = Listed(kept[place].group + group, [*kept[place].leads, group[0]], joint)
        else:
            kept.append(Listed(group, group[:1], seen))
    return kept


def _relative(fitter: LookFitter, kept: list[Listed], seen: Seen, embeddings: Tensor) -> tuple[int, Seen | None]:
    """The most alike of the listed looks, by its place, and the look that holds both; None if none does."""
    if not kept:
        return 0, None
    shown = torch.stack([seen.shown, *(other.seen.shown for other in kept)], 1).double()
    likeness = centroid_likeness(shown, torch.nn.functional.normalize(embeddings.double(), dim=1))[0, 1:]
    place = int(likeness.argmax())
    if likeness[place] < RELATED:
        return place, None
    both = seen, kept[place].seen
    joint = fitter.grow((seen.shown | kept[place].seen.shown).nonzero().flatten())
    better = joint is not None and all(
        joint.separation > part.separation and float(joint.shown[part.shown].double().mean()) >= KEPT for part in both
    )
    return place, joint if better else None


def _shared(one: Tensor, other: Tensor) -> float:
    """Pictures in both sets as a share of the smaller set."""
    return float((one & other).sum()) / max(1, min(int(one.sum()), int(other.sum())))

"""Among which of a prompt's main kinds of pictures a look is seen, and so how much commoner than it looks it may be."""

from __future__ import annotations

import torch
from torch import Tensor

from .clusters import cluster
from .distinctiveness import unit_rows

# Chosen on half of the emoji model's concepts: of 2 to 8 kinds the fewest whose intervals hold 95 % of the rates.
KINDS, LEAST = 3, 0.05
_NEIGHBOURS = 3


def room(embeddings: Tensor, shown: Tensor) -> float:
    """The share of all other pictures that is of kinds among which a look is seen.

    A *line sketch* of an open book and one of a closed book may look so different that they are two looks; then each
    of them counts a part of the line sketches. If a look's pictures all resemble open books, and one book in ten is
    open, then ten times as many pictures may show what they show, in ways that were never seen. A prompt's kinds are
    the clusters of its other pictures; a look is seen among those to which at least `LEAST` of its pictures' nearest
    neighbours belong.

    Args:
        embeddings: [N, E] of a prompt's pictures.
        shown: [N] bool, which have the look.

    Returns:
        Above 0, up to 1; 1 where there are too few others to tell kinds apart.
    """
    x = unit_rows(embeddings)
    inside, others = x[shown], x[~shown]
    if not len(inside) or len(others) < 10 * KINDS:
        return 1.0
    kind = cluster(others, KINDS)
    near = (inside @ others.T).topk(_NEIGHBOURS, dim=1).indices
    seen = torch.bincount(kind[near].flatten(), minlength=KINDS) / near.numel()
    return float((torch.bincount(kind, minlength=KINDS) / len(kind))[seen >= LEAST].sum())

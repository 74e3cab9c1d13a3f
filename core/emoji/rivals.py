"""Kinds that differ in one attribute, and how far a prediction leans from one towards the other."""

from __future__ import annotations

import torch
from torch import Tensor

from .world import Kind, World

# Directions kept for each concept, and what is added to P(value) before a pair's weight is divided by it.
RANK, FLOOR = 64, 0.1


def one_apart(kind: Kind, other: Kind) -> str | None:
    """The attribute in which two kinds differ, if it is the only one and they are of one concept.

    >>> from .world import load_world
    >>> kinds = load_world().kinds("cat")
    >>> one_apart(kinds[0], kinds[1]), one_apart(kinds[0], kinds[-1])
    ('style', None)
    """
    if kind.concept != other.concept:
        return None
    differ = [name for (name, value), (_, its) in zip(kind.attributes, other.attributes, strict=True) if value != its]
    return differ[0] if len(differ) == 1 else None


class Rivals:
    """Weighs errors of predicted latents by how far they lean towards a rival, however alike the two look.

    The ideal denoiser's output is a mean of latents; leaning by delta from one kind to its rival is an error of delta
    in a posterior probability. A plain squared error weighs that by how little a skin tone changes in a latent, which
    is next to nothing. This weighs it by itself, and leaves the minimum where it is.
    """

    def __init__(self, world: World, means: Tensor) -> None:
        """`means` [K, S, 8, 8, 8]: the latents of all kinds, in the order of `world.kinds()`, at all shifts."""
        centres = means.mean(1).flatten(1).double()
        index = {kind: i for i, kind in enumerate(world.kinds())}
        self.factor = torch.stack([self._factor(world, concept, centres, index) for concept in world.concepts])

    @staticmethod
    def _factor(world: World, concept: str, centres: Tensor, index: dict[Kind, int]) -> Tensor:
        """A factor F [512, RANK] of the concept's quadratic form: mean over pairs, sum over attributes."""
        kinds, tables = world.kinds(concept), world.truth[concept]
        form = torch.zeros(centres.shape[1], centres.shape[1], dtype=torch.float64)
        for name, table in tables.items():
            rows = []
            for i, kind in enumerate(kinds):
                for other in kinds[:i]:
                    if one_apart(kind, other) == name:
                        apart = centres[index[kind]] - centres[index[other]]
                        rarer = min(table[kind[name]], table[other[name]])
                        rows.append(apart / apart.square().sum() / (rarer + FLOOR) ** 0.5)
            form += torch.stack(rows).T @ torch.stack(rows) / len(rows)
        values, vectors = torch.linalg.eigh(form)
        return (vectors[:, -RANK:] * values[-RANK:].clamp(min=0).sqrt()).float()

    def squared(self, error: Tensor, concept: Tensor) -> Tensor:
        """By row, the weighted mean square of leanings of errors of x_0 [B, 8, 8, 8] in concepts [B]: [B]."""
        return torch.bmm(error.flatten(1)[:, None], self.factor[concept]).square().sum((1, 2))

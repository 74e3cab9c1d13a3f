"""Later rounds of a training: under guidance rare kinds are common, so what would even them out is seen far better."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .data import PictureSet
from .groups import checked_table, standardised
from .training import GuidanceConfig


def later(config: GuidanceConfig) -> GuidanceConfig:
    """How a module is trained on: half as long and half as fast."""
    return replace(config, steps=max(1, config.steps // 2), lr=config.lr / 2)


def joined(own: PictureSet, guided: PictureSet, number: int) -> PictureSet:
    """The model's own pictures, and then those of the same prompts that were made under guidance for this round."""
    return PictureSet(
        torch.cat([own.latents, guided.latents]),
        torch.cat([own.prompt, guided.prompt]),
        own.prompts,
        (*own.ids, *(f"round {number}: {each}" for each in guided.ids)),
        own.size,
    )


def ordinary(table: Tensor, prompt: Tensor, own: int) -> Tensor:
    """Which pictures `[N]` are no strays: all of the model's own, and of the others those with the like among them.

    Guidance that is not yet right also makes a few pictures of nothing in particular. Being like no other they would
    count as a kind of their own, to be made more often: on the emoji model, two such pictures in a thousand were given
    a tenth of the probability. So a picture counts if it lies no further from the nearest of the model's own than the
    furthest of these does from the others of its prompt.

    Args:
        table: `[N, P]` as for `infer_groups`.
        prompt: `[N]` each picture's prompt.
        own: how many of them, the first, are the model's own.

    >>> table = torch.tensor([[0.0], [1.0], [2.0], [2.9], [9.0]])
    >>> ordinary(table, torch.zeros(5), own=3)
    tensor([ True,  True,  True,  True, False])
    """
    x, kept = checked_table(table), torch.ones(len(table), dtype=torch.bool)
    for u in prompt.unique():
        rows = (prompt == u).nonzero().flatten()
        scaled, first = standardised(x[rows]), rows < own
        among = torch.cdist(scaled[first], scaled[first]).fill_diagonal_(torch.inf).amin(1)
        furthest = among[among.isfinite()]
        if len(furthest):
            near = torch.cdist(scaled[~first], scaled[first]).amin(1)
            kept[rows[~first]] = near <= furthest.max()
    return kept

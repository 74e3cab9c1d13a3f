"""The ideal denoiser of the emoji world: its data are finitely many pictures, so E[x_0 | x_t, caption] is known.

Training on that instead of the drawn picture has the same minimum and far less variance, and teaches the rates of
rare attributes directly rather than through rare examples.
"""

from __future__ import annotations

from itertools import chain, combinations

import torch
from torch import Tensor

from .world import World

NAMED = 0.6


def named_sets(attributes: list[str]) -> dict[frozenset[str], float]:
    """P(set of named attributes) in training: half of the captions are bare, half name some, each with .6."""
    subsets = chain.from_iterable(combinations(attributes, size) for size in range(1, len(attributes) + 1))
    weight = {frozenset(s): NAMED ** len(s) * (1 - NAMED) ** (len(attributes) - len(s)) for s in subsets}
    total = sum(weight.values())
    return {frozenset(): 0.5} | {s: 0.5 * w / total for s, w in weight.items()}


def prior(world: World, concept: str, named: dict[str, str]) -> Tensor:
    """P(kind | caption) over `world.kinds(concept)`: [K]; attributes in `named` are fixed, the others by truth."""
    rows = []
    for kind in world.kinds(concept):
        p = 1.0
        for attribute, value in kind.attributes:
            p *= float(value == named[attribute]) if attribute in named else world.truth[concept][attribute][value]
        rows.append(p)
    return torch.tensor(rows)


def free_prior(world: World, concept: str) -> Tensor:
    """P(kind | concept) over all captions, which is what an empty caption tells: [K]."""
    tables, total = world.truth[concept], torch.zeros(len(world.kinds(concept)))
    for names, weight in named_sets(list(tables)).items():
        rows = []
        for kind in world.kinds(concept):
            p = weight
            for attribute, value in kind.attributes:
                p *= 1 / len(tables[attribute]) if attribute in names else tables[attribute][value]
            rows.append(p)
        total += torch.tensor(rows)
    return total


def ideal_clean(x: Tensor, abar: Tensor, means: Tensor, spread: float, log_prior: Tensor) -> Tensor:
    """E[x_0 | x_t] for data that are a mixture of M equally round Gaussians: [B, D].

    Args:
        x: [B, D] noisy latents x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise.
        abar: [B] products of (1 - beta).
        means: [M, D] centres of the mixture.
        spread: their standard deviation.
        log_prior: [B, M] log of the weights; -inf leaves a component out.
    """
    a, variance = abar.sqrt()[:, None], (abar * spread**2 + 1 - abar)[:, None]
    distance = x.square().sum(1, keepdim=True) - 2 * a * (x @ means.T) + a**2 * means.square().sum(1)
    weight = (log_prior - distance / (2 * variance)).softmax(1)
    centre = weight @ means
    return centre + a * spread**2 / variance * (x - a * centre)


def velocity(x: Tensor, abar: Tensor, clean: Tensor) -> Tensor:
    """v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans and Ho 2022, App. D) of x_t and x_0, all [B, D]."""
    return (abar.sqrt()[:, None] * x - clean) / (1 - abar).sqrt()[:, None]

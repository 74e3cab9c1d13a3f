"""Aim beside the truth, so that a small network, which draws what is rare a little too often, hits it.

What is measured here uses seeds of its own; the gates judge the result on others.
"""

from __future__ import annotations

from dataclasses import replace

from ..backends.diffusers import DiffusersBackend
from .gates import sample
from .judge import judge
from .world import World

PICTURES = 1000
# The correction in log odds, as a share of what was measured, and its largest factor.
STRENGTH, LARGEST = 0.8, 2.5

Rates = dict[str, dict[str, float]]


def measure_rates(backend: DiffusersBackend, world: World) -> Rates:
    """How often each attribute value shows under the bare prompt of each concept, by the judge."""
    rates: Rates = {}
    for number, concept in enumerate(world.concepts):
        pictures = sample(backend, [world.prompt(concept)] * PICTURES, 10**6 * (number + 1))
        verdict = judge(pictures)
        rates[concept] = {v: verdict.share(v) for table in world.truth[concept].values() for v in table}
    return rates


def aim(world: World, rates: Rates) -> World:
    """The world to train towards: what shows too often is made rarer there, what shows too seldom commoner."""
    truth = {
        concept: {attribute: _aimed(table, rates[concept]) for attribute, table in tables.items()}
        for concept, tables in world.truth.items()
    }
    return replace(world, truth=truth)


def _aimed(table: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    """
    >>> aimed = _aimed({"man": 0.9, "woman": 0.1}, {"man": 0.8, "woman": 0.2})
    >>> round(aimed["woman"], 3)
    0.055
    """
    factors = {v: min(max(p / max(rates[v], 1e-3), 1 / LARGEST), LARGEST) ** STRENGTH for v, p in table.items()}
    total = sum(p * factors[v] for v, p in table.items())
    return {v: p * factors[v] / total for v, p in table.items()}

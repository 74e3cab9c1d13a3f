"""Correct the rates of a trained denoiser: a small network draws what is rare a little too often or too seldom.

Rounds of measuring and a short training. The network that was trained stays the teacher; it is only moved by what
the ideal denoiser would change if bare captions meant shares that make up for the measured error. So a round
disturbs nothing but the rates, while training further on the ideal itself moved them about at random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from . import DEMO
from .lessons import BATCH, Lessons, demo_scheduler
from .train_unet import Denoiser, Phase, compiled
from .trainer import Trainer
from .world import World

ROUND = Phase("balance", 300, 2e-4, (0.1, 0.75), cosine=300)
# The share of the measured log error that each round corrects: less and less, so that the noise averages out.
GAINS = (0.9, 0.7, 0.5, 0.4)
BATCHES = 16
LARGEST = math.log(3)

Rates = dict[str, dict[str, float]]
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sampled_kinds(predict: Predict, lessons: Lessons, concept: str, seed: int, batches: int = BATCHES) -> list:
    """The kinds that bare prompts of a concept give, by the nearest latent: batches x 64 of them."""
    tokens = lessons.tokens(lessons.world.prompt(concept)).expand(BATCH, -1).contiguous()
    kinds = []
    for number in range(batches):
        generator = torch.Generator().manual_seed(seed + number)
        x = torch.randn(BATCH, *lessons.means.shape[2:], generator=generator)
        scheduler = demo_scheduler()
        scheduler.set_timesteps(DEMO["steps"])
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t.repeat(BATCH), tokens), t, x).prev_sample
        kinds += lessons.nearest(concept, x)
    return kinds


def measure_rates(predict: Predict, lessons: Lessons, seed: int) -> Rates:
    """How often each attribute value shows under the bare prompt of each concept."""
    rates: Rates = {}
    for number, (concept, tables) in enumerate(lessons.world.truth.items()):
        kinds = sampled_kinds(predict, lessons, concept, seed + 1000 * number)
        rates[concept] = {v: sum(k.has(v) for k in kinds) / len(kinds) for table in tables.values() for v in table}
    return rates


def corrected(factors: Rates, world: World, rates: Rates, gain: float) -> Rates:
    """The log factors by which to aim beside the truth, after one more measurement.

    What shows too often is aimed at more rarely than before, what shows too seldom more often.
    """
    after: Rates = {}
    for concept, tables in world.truth.items():
        after[concept] = {}
        for value, p in ((v, p) for table in tables.values() for v, p in table.items()):
            error = math.log(p / max(rates[concept][value], 1e-3))
            after[concept][value] = factors[concept][value] + gain * min(max(error, -LARGEST), LARGEST)
    return after


def aim(world: World, factors: Rates) -> World:
    """The world whose shares are the truth times exp(factors), each attribute's summing to one again."""
    truth = {
        concept: {attribute: _aimed(table, factors[concept]) for attribute, table in tables.items()}
        for concept, tables in world.truth.items()
    }
    return replace(world, truth=truth)


def _aimed(table: dict[str, float], factors: dict[str, float]) -> dict[str, float]:
    """
    >>> aimed = _aimed({"man": 0.9, "woman": 0.1}, {"man": 0.0, "woman": math.log(2)})
    >>> round(aimed["woman"], 3)
    0.182
    """
    total = sum(p * math.exp(factors[v]) for v, p in table.items())
    return {v: p * math.exp(factors[v]) / total for v, p in table.items()}


def balance(folder: Path, model: Denoiser, lessons: Lessons) -> None:
    """Correct the model's rates in place, or resume in `folder`."""
    teach, predict = compiled(deepcopy(model)), compiled(model)
    factors = {c: {v: 0.0 for table in tables.values() for v in table} for c, tables in lessons.world.truth.items()}
    for number, gain in enumerate(GAINS):
        path = folder / f"rates-{number}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(measure_rates(predict, lessons, 10**5 * (number + 1)), indent=1) + "\n")
        factors = corrected(factors, lessons.world, json.loads(path.read_text()), gain)
        aimed, first = aim(lessons.world, factors), 10**6 * (number + 1)

        def loss(step: int, aimed: World = aimed, first: int = first) -> Tensor:
            plain = lessons.draw(first + step, ROUND.focus)
            moved = lessons.draw(first + step, ROUND.focus, aimed)
            with torch.no_grad():
                target = teach(plain.x, plain.t, plain.tokens) + moved.target - plain.target
            return (predict(plain.x, plain.t, plain.tokens) - target).pow(2).mean()

        run = folder / f"{ROUND.name}-{number}"
        Trainer(model, loss, run, steps=ROUND.steps, lr=ROUND.lr, warmup=20, ema=0.98).run()

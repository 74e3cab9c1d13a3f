"""Correct the rates of a trained denoiser: a small network draws what is rare a little too often or too seldom.

Rounds of measuring and a short training. In each the network as it is stays the teacher; it is only moved by what
the ideal denoiser would change if bare captions meant shares that make up for the measured error. So a round
disturbs nothing but the rates, while training further on the ideal itself moves them about at random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import DEMO
from .lessons import BATCH, Lessons, demo_scheduler
from .train_unet import Denoiser, compiled
from .trainer import Trainer
from .world import World


class Round(NamedTuple):
    """A measurement on `batches` of pictures of each concept, of whose log error `gain` times is corrected.

    A round moves a rate by a third to all of what it aims at, hence gains above one.
    """

    gain: float
    batches: int
    lr: float


ROUNDS = (
    Round(0.9, 8, 3e-4),
    Round(0.9, 8, 3e-4),
    Round(1.8, 16, 4e-4),
    Round(1.2, 16, 2e-4),
    Round(1.8, 16, 3e-4),
    Round(1.5, 16, 2e-4),
)
STEPS, FOCUS, BARE = 300, (0.5, 1.0), 32
LARGEST = math.log(3)

Rates = dict[str, dict[str, float]]
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sampled_kinds(predict: Predict, lessons: Lessons, concept: str, seed: int, batches: int) -> list:
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


def measure_rates(predict: Predict, lessons: Lessons, seed: int, batches: int) -> Rates:
    """How often each attribute value shows under the bare prompt of each concept."""
    rates: Rates = {}
    for number, (concept, tables) in enumerate(lessons.world.truth.items()):
        kinds = sampled_kinds(predict, lessons, concept, seed + 1000 * number, batches)
        rates[concept] = {v: sum(k.has(v) for k in kinds) / len(kinds) for table in tables.values() for v in table}
    return rates


def correction(world: World, rates: Rates, gain: float, pictures: int) -> Rates:
    """The log factors by which to aim beside the truth: below it what shows too often, above it what is too rare.

    An error no larger than the noise of that many pictures is left alone, so that rounds don't add up noise.
    """
    return {
        concept: {
            value: gain * _credible(math.log(p / max(rates[concept][value], 1e-3)), 1 / (pictures * p))
            for table in tables.values()
            for value, p in table.items()
        }
        for concept, tables in world.truth.items()
    }


def _credible(error: float, variance: float) -> float:
    """
    >>> round(_credible(0.5, 0.04), 2), _credible(-0.1, 0.04)
    (0.42, -0.0)
    """
    shrunk = error * max(0.0, 1 - variance / error**2) if error else 0.0
    return min(max(shrunk, -LARGEST), LARGEST)


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
    teacher = deepcopy(model)
    teach, predict = compiled(teacher), compiled(model)
    for number, plan in enumerate(ROUNDS):
        path = folder / f"rates-{number}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            rates = measure_rates(predict, lessons, 10**5 * (number + 1), plan.batches)
            path.write_text(json.dumps(rates, indent=1) + "\n")
        teacher.load_state_dict(model.state_dict())
        rates = json.loads(path.read_text())
        aimed = aim(lessons.world, correction(lessons.world, rates, plan.gain, BATCH * plan.batches))

        def loss(step: int, first: int = 10**6 * number, aimed: World = aimed) -> Tensor:
            plain = lessons.draw(first + step, FOCUS, only_bare=BARE)
            moved = lessons.draw(first + step, FOCUS, aimed, only_bare=BARE)
            with torch.no_grad():
                target = teach(plain.x, plain.t, plain.tokens) + moved.target - plain.target
            return (predict(plain.x, plain.t, plain.tokens) - target).square().mean()

        run = folder / f"round-{number}"
        Trainer(model, loss, run, steps=STEPS, lr=plan.lr, warmup=20, ema=0.98).run()

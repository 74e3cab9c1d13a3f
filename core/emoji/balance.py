"""Correct the rates of a trained denoiser: a small network draws what is rare a little too often or too seldom.

Rounds of measuring and a short training. In each the network as it is stays the teacher; it is only moved by what
the ideal denoiser would change if bare captions meant shares that make up for the measured error. So a round
disturbs nothing but the rates, while training further on the ideal itself moves them about at random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import DEMO
from .lessons import BATCH, Lessons, demo_scheduler
from .train_unet import CONTRAST, Denoiser, compiled, joined, paired_error
from .trainer import Trainer
from .world import World


class Round(NamedTuple):
    """A measurement on `batches` of pictures, of whose log error a share of `gain` is corrected.

    At the end share and learning rate fall, so that the noise of both averages out. With `pairs`, the words that
    captions name are taught as well, which disturbs the rates; so that comes first. With `beyond`, only concepts are
    measured and corrected where a rate was last off by at least that log factor; `slopes` is how many pairs of these
    each batch has besides, which teach what a look half hidden in noise changes.
    """

    gain: float
    batches: int
    lr: float
    pairs: int = 0
    beyond: float = 0.0
    slopes: int = 0


ROUNDS = (
    Round(0.9, 8, 2e-4, pairs=12),
    Round(0.9, 8, 2e-4),
    Round(1.3, 8, 5e-4),
    Round(1.2, 8, 5e-4),
    Round(1.0, 16, 2e-4),
    Round(0.7, 16, 1e-4),
    Round(1.5, 16, 2e-4, beyond=0.4),
    Round(1.2, 16, 3e-4, beyond=0.4, slopes=16),
    Round(1.2, 16, 2e-4, beyond=0.4),
    Round(1.5, 16, 2e-4, beyond=0.4),
    Round(2.2, 16, 2e-4, beyond=0.4),
    Round(1.8, 16, 2e-4, beyond=0.4),
)
STEPS, FOCUS, SLOPES, BARE = 300, (0.5, 1.0), (0.05, 0.6), 32
LARGEST, RIVALS = math.log(3), 0.03

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


def measure_rates(predict: Predict, lessons: Lessons, concepts: list[str], seed: int, batches: int) -> Rates:
    """How often each attribute value shows under the bare prompt of each of the concepts."""
    rates: Rates = {}
    for concept in concepts:
        number, tables = lessons.world.concepts.index(concept), lessons.world.truth[concept]
        kinds = sampled_kinds(predict, lessons, concept, seed + 1000 * number, batches)
        rates[concept] = {v: sum(k.has(v) for k in kinds) / len(kinds) for table in tables.values() for v in table}
    return rates


def errors(world: World, concept: str, rates: dict[str, float]) -> dict[str, float]:
    """By value, the log of truth over rate."""
    return {
        value: min(max(math.log(p / max(rates[value], 1e-3)), -LARGEST), LARGEST)
        for value, p in _shares(world, concept).items()
    }


def correction(world: World, rates: Rates, gain: float) -> Rates:
    """The log factors by which to aim beside the truth: below it what shows too often, above it what is too rare.

    A concept without rates is left as it is.
    """
    return {
        concept: {
            value: gain * error
            for value, error in errors(world, concept, rates.get(concept, _shares(world, concept))).items()
        }
        for concept in world.concepts
    }


def _shares(world: World, concept: str) -> dict[str, float]:
    return {value: p for table in world.truth[concept].values() for value, p in table.items()}


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
    teach, predict, last = compiled(teacher), compiled(model), {}
    for number, plan in enumerate(ROUNDS):
        path = folder / f"rates-{number}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            worst = {c: max(abs(e) for e in errors(lessons.world, c, rates).values()) for c, rates in last.items()}
            concepts = [concept for concept in lessons.world.concepts if worst.get(concept, plan.beyond) >= plan.beyond]
            rates = measure_rates(predict, lessons, concepts, 10**5 * (number + 1), plan.batches)
            path.write_text(json.dumps(rates, indent=1) + "\n")
        rates = json.loads(path.read_text())
        last |= rates
        teacher.load_state_dict(model.state_dict())
        aimed = aim(lessons.world, correction(lessons.world, rates, plan.gain))

        def loss(
            step: int,
            first: int = 10**6 * number,
            plan: Round = plan,
            aimed: World = aimed,
            worst: Sequence[str] = tuple(rates),
        ) -> Tensor:
            at, size = first + step, BATCH - 2 * (plan.pairs + plan.slopes)
            plain = lessons.draw(at, FOCUS, size=size, only_bare=BARE)
            moved = lessons.draw(at, FOCUS, aimed, size=size, only_bare=BARE)
            parts = [plain]
            if plan.pairs:
                parts.append(lessons.contrast(at, CONTRAST, pairs=plan.pairs, bare=False))
            if plan.slopes:
                parts.append(lessons.contrast(at, SLOPES, pairs=plan.slopes, concepts=worst))
            batch = joined(parts)
            with torch.no_grad():
                taught = teach(batch.x, batch.t, batch.tokens)
            taught[:size] += moved.target - plain.target
            kept = batch.bare if plan.pairs else torch.arange(BATCH) < size
            target = torch.where(kept.view(-1, 1, 1, 1), taught, batch.target)
            error = predict(batch.x, batch.t, batch.tokens) - target
            if plan.slopes:
                one, other = error[size:].chunk(2)
                differ = lessons.squared_error(one - other, batch, RIVALS, slice(-plan.slopes, None))
                return lessons.squared_error(error[:size], batch, RIVALS, slice(size)) + differ
            return paired_error(lessons, error, batch, plan.pairs, RIVALS)

        run = folder / f"round-{number}"
        Trainer(model, loss, run, steps=STEPS, lr=plan.lr, warmup=20, ema=0.98).run()

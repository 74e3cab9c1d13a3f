"""What the denoiser is taught, and how its rates are corrected: on made-up latents, with the ideal denoiser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hapax.core.emoji.balance import aim, correction, sampled_kinds
from hapax.core.emoji.ideal import ideal_clean, prior, velocity
from hapax.core.emoji.lessons import Lessons
from hapax.core.emoji.tokens import CONTEXT, write_tokenizer
from hapax.core.emoji.world import World, load_world
from torch import Tensor
from transformers import CLIPTokenizer

WORLD = load_world()
FOCUS = (0.1, 0.75)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Lessons:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(WORLD, folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT)
    mean = torch.randn(len(WORLD.kinds()), 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return Lessons(mean, torch.full_like(mean, 0.2), tokenizer)


def with_women(p: float) -> World:
    """The world in which a share p of the firefighters are women."""
    tables = {**WORLD.truth["firefighter"], "gender": {"man": 1 - p, "woman": p}}
    return replace(WORLD, truth={**WORLD.truth, "firefighter": tables})


def test_a_batch_is_drawn_from_its_step(lessons: Lessons) -> None:
    first, again, other = lessons.draw(7, FOCUS), lessons.draw(7, FOCUS), lessons.draw(8, FOCUS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.x, other.x)


def test_other_shares_move_the_bare_captions_of_their_concept_alone(lessons: Lessons) -> None:
    bare = lessons.tokens(WORLD.prompt("firefighter"))
    moved, still = 0, 0
    for step in range(40):
        plain, other = lessons.draw(step, FOCUS), lessons.draw(step, FOCUS, with_women(0.5))
        assert torch.equal(plain.x, other.x)
        assert torch.equal(plain.tokens, other.tokens)
        for tokens, a, b in zip(plain.tokens, plain.target, other.target, strict=True):
            if torch.equal(tokens, bare):
                moved += not torch.equal(a, b)
            elif "firefighter" not in lessons.tokenizer.decode(tokens):
                assert torch.equal(a, b)
                still += 1
    assert moved > 5
    assert still > 1000


def ideal(lessons: Lessons, world: World, concept: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The ideal denoiser of a concept's bare prompt, in the shape of a network."""
    centres = lessons.means[[lessons.rows[kind] for kind in world.kinds(concept)]]
    log_prior = prior(world, concept, {}).log().repeat_interleave(centres.shape[1])

    def predict(x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        rows, abar = x.flatten(1), lessons.bar[t]
        clean = ideal_clean(rows, abar, centres.flatten(0, 1).flatten(1), lessons.spread, log_prior.expand(len(x), -1))
        return velocity(rows, abar, clean).view_as(x)

    return predict


def test_the_sampler_draws_what_the_denoiser_means(lessons: Lessons) -> None:
    for p in (0.06, 0.5):
        kinds = sampled_kinds(ideal(lessons, with_women(p), "firefighter"), lessons, "firefighter", 0, batches=8)
        women = Counter(kind["gender"] for kind in kinds)["woman"] / len(kinds)
        assert women == pytest.approx(p, abs=3.5 * (p * (1 - p) / len(kinds)) ** 0.5)


def test_rounds_of_correction_find_the_truth_under_a_bias() -> None:
    """A denoiser that takes women for three times as likely as it is told, and goes on from where it is."""
    truth = WORLD.truth["firefighter"]["gender"]["woman"]
    odds = 3 * truth / (1 - truth)
    for gain in (0.9, 0.7, 0.5):
        rates = {c: {v: p for table in tables.values() for v, p in table.items()} for c, tables in WORLD.truth.items()}
        rates["firefighter"] |= {"woman": odds / (1 + odds), "man": 1 / (1 + odds)}
        aimed = aim(WORLD, correction(WORLD, rates, gain, pictures=10**6))
        woman = aimed.truth["firefighter"]["gender"]["woman"]
        odds *= woman / (1 - woman) / (truth / (1 - truth))
    assert odds / (1 + odds) == pytest.approx(truth, rel=0.03)
    for tables in aimed.truth.values():
        assert all(sum(table.values()) == pytest.approx(1) for table in tables.values())
    assert aimed.truth["cat"]["style"] == pytest.approx(WORLD.truth["cat"]["style"])


def test_only_bare_captions_on_demand(lessons: Lessons) -> None:
    kinds = [WORLD.kinds(concept)[0] for concept in WORLD.concepts]
    captions = [WORLD.caption(kind, template=number) for kind in kinds for number in range(len(WORLD.templates))]
    bare = {tuple(lessons.tokens(caption).tolist()) for caption in captions}
    batch = lessons.draw(0, FOCUS, only_bare=32)
    are = [tuple(tokens.tolist()) in bare for tokens in batch.tokens]
    assert all(are[:32])
    assert not all(are[32:])

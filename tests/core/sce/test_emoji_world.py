"""What the score claims, against the known truth of the emoji world, with the tiny CLIP's embeddings.

Pictures are rendered but for the last test, which samples the model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hapax.core.emoji import DEMO, MODEL_FOLDER, MODEL_INDEX, load_clip
from hapax.core.emoji.render import render_all, shifts
from hapax.core.emoji.world import load_world
from hapax.core.sce import (
    fit_prompt_map,
    linear_probe,
    official_map,
    sce_interval,
    schur_complement_entropy,
    vendi_score,
)
from PIL import Image
from torch import Tensor

WORLD = load_world()
JOBS = WORLD.professions
COMBINATIONS = 40
PER_JOB = 100


class Seen(NamedTuple):
    """Embeddings of the world: image [10 jobs, 40 looks, 3 shifts, d], text [10 jobs, 8 paraphrases, d]."""

    image: Tensor
    text: Tensor

    def draw(self, jobs: list[int], looks: np.ndarray, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n pictures each of some jobs, looks drawn evenly from a few; and which paraphrase-free text each has."""
        rng = np.random.default_rng(seed)
        which = np.repeat(jobs, n)
        image = self.image[which, rng.choice(looks, len(which)), rng.integers(3, size=len(which))]
        return image, torch.from_numpy(which)


@pytest.fixture(scope="module")
def seen() -> Seen:
    clip, rendered, kinds = load_clip(), render_all(WORLD), WORLD.kinds()
    rows = [i for i, kind in enumerate(kinds) if kind.concept in JOBS]
    pictures = [Image.fromarray(np.roll(rendered[i], by, (0, 1))) for i in rows for by in shifts(WORLD)[:3]]
    texts = [WORLD.caption(WORLD.kinds(job)[0], template=t) for job in JOBS for t in range(8)]
    image, text = clip.images(pictures), clip.texts(texts)
    return Seen(image.reshape(10, COMBINATIONS, 3, -1), text.reshape(10, 8, -1))


def ranks(x: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(x)).astype(float)


@pytest.mark.parametrize("seed", range(3))
def test_score_rises_with_the_number_of_modes_at_fixed_prompts(seen: Seen, seed: int):
    order = np.random.default_rng(seed).permutation(COMBINATIONS)
    scores = []
    for level in range(1, 9):
        image, job = seen.draw(list(range(10)), order[:level], PER_JOB, seed)
        scores.append(schur_complement_entropy(image, seen.text[job, 0]).image)
    assert np.corrcoef(np.arange(8), ranks(scores))[0, 1] >= 0.95
    assert scores[-1] > 1.5 * scores[0]


def test_paraphrases_of_the_prompts_change_little(seen: Seen):
    image, job = seen.draw(list(range(10)), np.arange(COMBINATIONS), PER_JOB, 0)
    plain = schur_complement_entropy(image, seen.text[job, 0])
    others = torch.from_numpy(np.random.default_rng(1).integers(8, size=len(job)))
    said = schur_complement_entropy(image, seen.text[job, others])
    assert (plain.unique_texts, said.unique_texts) == (10, 80)
    assert said.image == pytest.approx(plain.image, rel=0.1)
    assert said.image_effective == pytest.approx(plain.image_effective, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_more_concepts_move_it_less_than_half_as_much_as_vendi(seen: Seen, seed: int):
    jobs = np.random.default_rng(seed).permutation(10).tolist()
    moves = []
    for measure in ("image", "image_effective", "vendi"):
        values = []
        for some in (jobs[:1], jobs):
            image, job = seen.draw(some, np.arange(COMBINATIONS), 1000 // len(some), seed)
            if measure == "vendi":
                values.append(vendi_score(image))
            else:
                values.append(getattr(schur_complement_entropy(image, seen.text[job, 0]), measure))
        moves.append(values[1] / values[0] - 1)
    assert moves[2] > 1.5
    assert abs(moves[0]) < moves[2] / 2
    assert abs(moves[1]) < moves[2] / 2


def test_concept_is_removed_and_attributes_stay(seen: Seen):
    rng = np.random.default_rng(0)
    job, look, shift = (torch.from_numpy(rng.integers(k, size=2000)) for k in (10, COMBINATIONS, 3))
    image, text, train = seen.image[job, look, shift], seen.text[job, 0], torch.from_numpy(rng.random(2000) < 0.5)
    kinds = [WORLD.kinds(JOBS[0])[i] for i in look.tolist()]
    attributes = {}
    for name in ("gender", "skin", "style"):
        values = sorted({kind[name] for kind in kinds})
        attributes[name] = torch.tensor([values.index(kind[name]) for kind in kinds])
    rest = fit_prompt_map(image[train], text[train]).remove(image, text)
    assert linear_probe(image, job, train) > 0.95
    assert linear_probe(rest, job, train) < 0.15  # chance is .10
    for y in attributes.values():
        assert linear_probe(rest, y, train) > linear_probe(image, y, train) - 0.05
    published = image - text @ official_map(image[train], text[train])
    assert linear_probe(published, job, train) > 0.5


@pytest.mark.skipif(
    not MODEL_INDEX.exists(),
    reason="The emoji model's weights are not here: that SCE tells a steered model from the base is NOT tested",
)
def test_a_steered_model_is_told_from_the_base():
    """The same concepts and seeds; of the steered model each picture is pushed towards one of four rare looks. Both
    are scored against the bare prompts, which is what an audit knows of them."""
    from hapax.core.backends.diffusers import DiffusersBackend
    from hapax.core.directions import record_dial

    backend, clip, looks = DiffusersBackend.from_folder(MODEL_FOLDER), load_clip(), WORLD.styles
    pictures, prompts = {"base": [], "steered": []}, []
    for job in ("firefighter", "farmer"):
        bare = WORLD.prompt(job)
        prompts += [bare] * 48
        pictures["base"] += backend.sample(bare, range(48), batch_size=48, **DEMO)
        for number, look in enumerate(looks):
            recorded = {"seeds": range(1000, 1016), "steps": 4, "guidance": 1.0, "batch_size": 16}
            tap = record_dial(backend, f"{bare}, {look}", bare, **recorded).tap(2.0)
            pictures["steered"] += backend.sample(bare, range(number, 48, 4), {"mid": tap}, batch_size=12, **DEMO)
    text = clip.texts(prompts)
    base, steered = (sce_interval(clip.images(made), text) for made in pictures.values())
    assert steered.image.low > base.image.high

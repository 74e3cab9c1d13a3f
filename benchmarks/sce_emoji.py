"""Schur Complement Entropy against the truth of the emoji world: what it must see, and what it must not.

    python benchmarks/sce_emoji.py [--model DIR] [--samples 200]

Embeddings are the tiny CLIP's of rendered pictures; the last table samples the model (default: the one that
ships) and is left out without it. Takes 2 minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from hapax.core.emoji import DEMO, MODEL_FOLDER, load_clip
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

WORLD, LOOKS, SHIFTS = load_world(), 40, 3
JOBS = WORLD.professions


def embedded(clip) -> tuple[Tensor, Tensor]:
    """Pictures [jobs, looks, shifts, d] and captions [jobs, templates, d]."""
    rendered = render_all(WORLD)
    rows = [i for i, kind in enumerate(WORLD.kinds()) if kind.concept in JOBS]
    pictures = [Image.fromarray(np.roll(rendered[i], by, (0, 1))) for i in rows for by in shifts(WORLD)[:SHIFTS]]
    texts = [WORLD.caption(WORLD.kinds(job)[0], template=t) for job in JOBS for t in range(8)]
    return clip.images(pictures).reshape(len(JOBS), LOOKS, SHIFTS, -1), clip.texts(texts).reshape(len(JOBS), 8, -1)


def drawn(image: Tensor, jobs: list[int], looks: np.ndarray, n: int, seed: int) -> tuple[Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    job = np.repeat(jobs, n)
    return image[job, rng.choice(looks, len(job)), rng.integers(SHIFTS, size=len(job))], job


def levels(image: Tensor, text: Tensor) -> None:
    print("Number of attribute modes, ten concepts, fixed prompts: SCE, its normalised form, trace")
    order = np.random.default_rng(0).permutation(LOOKS)
    for level in (1, 2, 3, 4, 5, 6, 7, 8, 40):
        x, job = drawn(image, list(range(10)), order[:level], 100, 0)
        score = schur_complement_entropy(x, text[job, 0])
        print(f"{level:>4} modes {score.image:8.3f} {score.image_effective:8.2f} {score.trace_image:8.3f}")


def paraphrases(image: Tensor, text: Tensor) -> None:
    x, job = drawn(image, list(range(10)), np.arange(LOOKS), 100, 0)
    others = np.random.default_rng(1).integers(8, size=len(job))
    one, eight = (schur_complement_entropy(x, text[job, which]).image for which in (0, others))
    print(f"\nEight paraphrases of every prompt: SCE {one:.3f} -> {eight:.3f} ({100 * (eight / one - 1):+.2f} %)")


def concepts(image: Tensor, text: Tensor) -> None:
    print("\nConcepts, all attributes even, 1,000 pictures: SCE, Vendi score")
    first: tuple[float, float] | None = None
    for count in (1, 2, 5, 10):
        x, job = drawn(image, list(range(count)), np.arange(LOOKS), 1000 // count, 0)
        now = schur_complement_entropy(x, text[job, 0]).image, vendi_score(x)
        first = first or now
        moves = [100 * (b / a - 1) for a, b in zip(first, now, strict=True)]
        print(f"{count:>4} concepts {now[0]:8.3f} ({moves[0]:+.0f} %) {now[1]:8.2f} ({moves[1]:+.0f} %)")


def removal(image: Tensor, text: Tensor) -> None:
    rng = np.random.default_rng(0)
    job, look, shift = (torch.from_numpy(rng.integers(k, size=2000)) for k in (10, LOOKS, SHIFTS))
    x, prompts, train = image[job, look, shift], text[job, 0], torch.from_numpy(rng.random(2000) < 0.5)
    kinds = [WORLD.kinds(JOBS[0])[i] for i in look.tolist()]
    truth = {"concept": job}
    for name in ("gender", "skin", "style"):
        values = sorted({kind[name] for kind in kinds})
        truth[name] = torch.tensor([values.index(kind[name]) for kind in kinds])
    forms = {
        "embedding": x,
        "prompt removed": fit_prompt_map(x[train], prompts[train]).remove(x, prompts),
        "column cosines (published)": x - prompts @ official_map(x[train], prompts[train]),
    }
    print("\nAccuracy of a linear probe (chance: concept 10 %)")
    print(f"{'':>28}" + "".join(f"{name:>10}" for name in truth))
    for name, form in forms.items():
        print(f"{name:>28}" + "".join(f"{100 * linear_probe(form, y, train):>9.1f} %" for y in truth.values()))


def steered(clip, model: Path, samples: int) -> None:
    from hapax.core.backends.diffusers import DiffusersBackend
    from hapax.core.commands.common import quiet

    quiet()
    backend, rng = DiffusersBackend.from_folder(model), np.random.default_rng(0)
    jobs = [JOBS[i % 2] for i in range(samples)]
    bare = [WORLD.prompt(job) for job in jobs]
    named = [WORLD.caption(WORLD.kinds(job)[rng.integers(LOOKS)], {"gender", "skin", "style"}) for job in jobs]
    print(f"\n{samples} samples of {JOBS[0]} and {JOBS[1]}, scored against the bare prompts: SCE with 95 % intervals")
    for name, prompts in (("bare prompts", bare), ("looks asked for evenly", named)):
        pictures = backend.sample(prompts, range(samples), batch_size=50, **DEMO)
        score = sce_interval(clip.images(pictures), clip.texts(bare))
        print(f"{name:>24} {score.score.image:8.3f} ({score.image.low:.3f} to {score.image.high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="the emoji model's folder")
    parser.add_argument("--samples", type=int, default=200)
    given = parser.parse_args()
    clip = load_clip()
    image, text = embedded(clip)
    for table in (levels, paraphrases, concepts, removal):
        table(image, text)
    if given.model.exists():
        steered(clip, given.model, given.samples)


if __name__ == "__main__":
    main()

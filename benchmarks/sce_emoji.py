"""Schur Complement Entropy against the truth of the emoji world: what it must see, and what it must not.

    python benchmarks/sce_emoji.py [--model DIR] [--samples 200] [--concepts mechanic scientist] [--strength 2]

Embeddings are the tiny CLIP's of rendered pictures; the last part samples the model (default: the one that ships) and
is left out, saying so, without it. Prints one JSON object, each number beside its bar, and fails where one is missed or
not measured.
Nothing was chosen on the concepts of the last part: the strength comes from others. Two minutes on one core, and with
the model about two more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.commands.common import quiet
from hapax.core.directions import record_dial
from hapax.core.emoji import DEMO, MODEL_FOLDER, load_clip
from hapax.core.emoji.judge import judge
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
LEVELS, PARAPHRASES, CHANCE, POINTS = 0.95, 0.10, 0.10, 0.05
# How far above chance a probe may still be, and how far the published correction has to be to count as failed.
NEAR, FAILED = 0.05, 0.50


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


def levels(image: Tensor, text: Tensor) -> dict:
    """Eight numbers of attribute modes under ten fixed prompts, in five orders of the modes."""
    found = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(LOOKS)
        scores = []
        for level in range(1, 9):
            x, job = drawn(image, list(range(10)), order[:level], 100, seed)
            scores.append(schur_complement_entropy(x, text[job, 0]).image)
        found.append(scores)
    ranks = [np.argsort(np.argsort(scores)) for scores in found]
    spearman = [float(np.corrcoef(np.arange(8), each)[0, 1]) for each in ranks]
    return {"scores": found, "spearman": spearman, "bar": LEVELS, "holds": min(spearman) >= LEVELS}


def paraphrases(image: Tensor, text: Tensor) -> dict:
    """The same pictures, each concept's caption replaced by eight that say the same."""
    x, job = drawn(image, list(range(10)), np.arange(LOOKS), 100, 0)
    others = np.random.default_rng(1).integers(8, size=len(job))
    one, eight = (schur_complement_entropy(x, text[job, which]).image for which in (0, others))
    return {"one": one, "eight": eight, "move": eight / one - 1, "bar": PARAPHRASES} | {
        "holds": abs(eight / one - 1) <= PARAPHRASES
    }


def concepts(image: Tensor, text: Tensor) -> dict:
    """1,000 pictures of one concept up to ten, all looks even."""
    rows = {}
    for count in (1, 2, 5, 10):
        x, job = drawn(image, list(range(count)), np.arange(LOOKS), 1000 // count, 0)
        rows[count] = {"sce": schur_complement_entropy(x, text[job, 0]).image, "vendi": vendi_score(x)}
    moves = {name: rows[10][name] / rows[1][name] - 1 for name in ("sce", "vendi")}
    return {"scores": rows, "moves": moves, "bar": "less than half of Vendi's"} | {
        "holds": abs(moves["sce"]) < abs(moves["vendi"]) / 2
    }


def removal(image: Tensor, text: Tensor) -> dict:
    """Held-out accuracy of linear probes before the concept is removed, after it, and after the published correction.

    Maps and probes are fitted on one half of the pictures and tried on the other.
    """
    rng = np.random.default_rng(0)
    job, look, shift = (torch.from_numpy(rng.integers(k, size=2000)) for k in (10, LOOKS, SHIFTS))
    x, prompts, train = image[job, look, shift], text[job, 0], torch.from_numpy(rng.random(2000) < 0.5)
    kinds = [WORLD.kinds(JOBS[0])[i] for i in look.tolist()]
    truth = {"concept": job}
    for name in ("gender", "skin", "style"):
        values = sorted({kind[name] for kind in kinds})
        truth[name] = torch.tensor([values.index(kind[name]) for kind in kinds])
    forms = {
        "before": x,
        "removed": fit_prompt_map(x[train], prompts[train]).remove(x, prompts),
        "published": x - prompts @ official_map(x[train], prompts[train]),
    }
    told = {form: {name: linear_probe(rows, y, train) for name, y in truth.items()} for form, rows in forms.items()}
    kept = all(told["removed"][name] >= told["before"][name] - POINTS for name in truth if name != "concept")
    gone = told["removed"]["concept"] <= CHANCE + NEAR
    return {"accuracy": told, "bars": {"concept": CHANCE + NEAR, "attributes lose at most": POINTS}} | {
        "published_fails": told["published"]["concept"] >= FAILED,
        "holds": kept and gone and told["published"]["concept"] >= FAILED,
    }


def steered(clip, model: Path, given: argparse.Namespace) -> dict:
    """The base model; the same at the same seeds with every picture pushed towards one of its rare looks in turn; and
    asked for all looks in words. All are scored against the bare prompts, which is what an audit knows of them."""
    quiet()
    backend, rng, each = DiffusersBackend.from_folder(model), np.random.default_rng(0), given.samples // 2
    bare = {concept: WORLD.prompt(concept) for concept in given.concepts[:2]}
    pictures: dict[str, list] = {"base": [], "steered": [], "asked in words": []}
    for concept, prompt in bare.items():
        pictures["base"] += backend.sample(prompt, range(each), batch_size=50, **DEMO)
        named = [WORLD.kinds(concept)[rng.integers(LOOKS)] for _ in range(each)]
        words = [WORLD.caption(kind, {"gender", "skin", "style"}) for kind in named]
        pictures["asked in words"] += backend.sample(words, range(each), batch_size=50, **DEMO)
        pictures["steered"] += pushed(backend, prompt, rare_looks(concept), each, given.strength)
    text = clip.texts([prompt for prompt in bare.values() for _ in range(each)])
    rows = {}
    for name, made in pictures.items():
        score = sce_interval(clip.images(made), text)
        verdict = judge(np.stack([np.asarray(picture) for picture in made]))
        right = [
            kind.concept == concept for kind, concept in zip(verdict.kinds, np.repeat(list(bare), each), strict=True)
        ]
        rows[name] = {"sce": score.score.image, "interval": list(score.image), "concept_kept": float(np.mean(right))}
    base, other = rows["base"]["interval"], rows["steered"]["interval"]
    apart = other[0] > base[1] or other[1] < base[0]
    return {"concepts": list(bare), "samples": 2 * each, "rows": rows, "bar": "intervals lie apart", "holds": apart}


def rare_looks(concept: str) -> list[str]:
    """The attribute values that the concept's bare prompt shows in less than half of its pictures."""
    return [value for table in WORLD.truth[concept].values() for value, share in table.items() if share < 0.5]


def pushed(backend: DiffusersBackend, prompt: str, looks: list[str], count: int, strength: float) -> list:
    """Pictures of a prompt at seeds 0 on, each pushed by the dial of one of the looks."""
    pictures: dict[int, object] = {}
    for number, look in enumerate(looks):
        seeds = range(number, count, len(looks))
        recorded = {"seeds": range(10**5, 10**5 + 16), "steps": 4, "guidance": 1.0, "batch_size": 16}
        dial = record_dial(backend, f"{prompt}, {look}", prompt, **recorded)
        made = backend.sample(prompt, seeds, {"mid": dial.tap(strength)}, batch_size=50, **DEMO)
        pictures |= dict(zip(seeds, made, strict=True))
    return [pictures[seed] for seed in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="the emoji model's folder")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--concepts", nargs=2, choices=JOBS, default=("mechanic", "scientist"))
    parser.add_argument("--strength", type=float, default=2.0, help="of the push, in natural sizes")
    given = parser.parse_args()
    clip = load_clip()
    image, text = embedded(clip)
    found = {table.__name__: table(image, text) for table in (levels, paraphrases, concepts, removal)}
    if given.model.exists():
        found["steered"] = steered(clip, given.model, given)
    else:
        found["steered"] = {"holds": None, "why": f"no model in {given.model}: NOT measured"}
    print(json.dumps(found, indent=1))
    return int(not all(part["holds"] for part in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())

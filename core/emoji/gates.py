"""Measure the shipped emoji model against its world: `python -m hapax.core.emoji.gates`.

Writes gates.json beside the weights: concepts named right, each attribute's rate against its truth, and how often
prompts that name attributes get them. The judge counts; the sampler and guidance are stated in the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ..backends.diffusers import DiffusersBackend
from ..distributed import gather, mine, process_group, rank
from ..statistics import wilson_interval
from . import CLIP_FOLDER, DEMO, MODEL_FOLDER
from .judge import Verdict, judge
from .world import World, load_world

GATES_FILE = Path(__file__).with_name("gates.json")
CONCEPT, LOW, HIGH, FLOOR, NAMED, CLIP = 0.97, 0.5, 1.6, 0.005, 0.90, 0.95


def sample(backend: DiffusersBackend, prompts: list[str], seed: int, batch: int = 100) -> np.ndarray:
    """Pictures uint8 [n, 64, 64, 3], one per prompt, at seeds from `seed` on."""
    seeds = range(seed, seed + len(prompts))
    pictures = backend.sample(prompts, seeds, output="pt", batch_size=batch, **DEMO)
    return (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def bare_row(world: World, concept: str, verdict: Verdict) -> dict:
    """What the bare prompt of a concept gives: shares with truth, interval and ratio, and the judge's distance."""
    n, rates = len(verdict.kinds), {}
    for table in world.truth[concept].values():
        for value, truth in table.items():
            share = verdict.share(value)
            low, high = wilson_interval(round(share * n), n)
            rates[value] = {
                "truth": truth,
                "rate": round(share, 4),
                "low": round(float(low), 4),
                "high": round(float(high), 4),
                "ratio": round(share / truth, 3),
            }
    return {
        "pictures": n,
        "concept": round(verdict.concept(concept), 4),
        "rmse": round(verdict.rmse.mean().item(), 4),
        "attributes": rates,
    }


def named_prompts(world: World, concept: str, count: int, seed: int) -> tuple[list[str], list[dict[str, str]]]:
    """Prompts that name a random part of a concept's attributes, drawn evenly, and what each names."""
    rng = np.random.default_rng([5, seed, world.concepts.index(concept)])
    prompts, wanted = [], []
    while len(prompts) < count:
        named = {a for a in world.truth[concept] if rng.random() < 0.6}
        if named:
            kind = world.draw(concept, named, rng)
            prompts.append(world.caption(kind, named))
            wanted.append({a: kind[a] for a in named})
    return prompts, wanted


def named_row(concept: str, verdict: Verdict, wanted: list[dict[str, str]]) -> dict[str, float]:
    """How often each named attribute shows, and the concept."""
    hits: dict[str, list[bool]] = {"concept": [kind.concept == concept for kind in verdict.kinds]}
    for kind, names in zip(verdict.kinds, wanted, strict=True):
        for attribute, value in names.items():
            hits.setdefault(attribute, []).append(kind.has(value))
    return {name: round(float(np.mean(row)), 4) for name, row in hits.items()}


def failures(report: dict) -> list[str]:
    """The gates that do not hold, in words."""
    bad = []
    for concept, row in report["bare"].items():
        if row["concept"] < CONCEPT:
            bad.append(f"{concept}: named right for {row['concept']:.3f}")
        for value, rate in row["attributes"].items():
            if not LOW <= rate["ratio"] <= HIGH or rate["rate"] < FLOOR:
                bad.append(f"{concept}, {value}: rate {rate['rate']} for a truth of {rate['truth']}")
    for concept, row in report["named"].items():
        bad += [f"{concept}: named {a} shows in {share}" for a, share in row.items() if share < NAMED]
    if report["clip"]["held_out_accuracy"]["all"] < CLIP:
        bad.append(f"CLIP ranks {report['clip']['held_out_accuracy']['all']:.3f} of held-out attributes right")
    return bad


def measure(backend: DiffusersBackend, concept: str, bare: int, named: int) -> tuple[dict, dict]:
    """The bare and the named row of one concept, at seeds of its own."""
    world, number = load_world(), load_world().concepts.index(concept)
    # Far from the seeds that the model's last training phase was corrected on.
    seed = 10**9 + 10**6 * (number + 1)
    plain = bare_row(world, concept, judge(sample(backend, [world.prompt(concept)] * bare, seed)))
    prompts, wanted = named_prompts(world, concept, named, number)
    return plain, named_row(concept, judge(sample(backend, prompts, seed + bare)), wanted)


def main() -> None:
    """Measure and write; under torchrun the concepts are shared out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bare", type=int, default=1000, help="bare-prompt pictures per concept")
    parser.add_argument("--named", type=int, default=200, help="pictures per concept from prompts that name attributes")
    parser.add_argument("--out", type=Path, default=GATES_FILE)
    arguments = parser.parse_args()
    concepts, backend = load_world().concepts, DiffusersBackend.from_folder(MODEL_FOLDER)
    with process_group():
        rows = {}
        for number in mine(len(concepts)):
            rows[concepts[number]] = measure(backend, concepts[number], arguments.bare, arguments.named)
            print(concepts[number], rows[concepts[number]][0]["concept"], flush=True)
        rows = gather(rows)
        if rank() != 0:
            return
    report: dict = {
        "sampler": type(backend.pipeline.scheduler).__name__,
        **DEMO,
        "bare": {concept: rows[concept][0] for concept in concepts},
        "named": {concept: rows[concept][1] for concept in concepts},
        "clip": json.loads((CLIP_FOLDER / "gate.json").read_text()),
    }
    report["failures"] = failures(report)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(report["failures"]) or "all gates hold")


if __name__ == "__main__":
    main()

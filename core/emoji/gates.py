"""Measure the shipped emoji model against its world: `python -m hapax.core.emoji.gates`.

Writes gates.json beside the weights: concepts named right, each attribute's rate against its truth, how often
prompts that name attributes get them, and how often a picture takes over what another shows when it is given the
output of the other's middle block. The judge counts; the sampler and guidance are stated in the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..backends.diffusers import DiffusersBackend, Taps
from ..distributed import gather, mine, process_group, rank
from ..statistics import wilson_interval
from ..taps import Step
from . import CLIP_FOLDER, DEMO, MODEL_FOLDER
from .judge import Verdict, judge
from .world import World, load_world

GATES_FILE = Path(__file__).with_name("gates.json")
CONCEPT, LOW, HIGH, FLOOR, NAMED, CLIP = 0.97, 0.5, 1.6, 0.005, 0.90, 0.95
# A model whose rates are right may still decide everything beside its middle block: there no edit would show.
EXCHANGED, PAIRS = 0.3, 48


def sample(
    backend: DiffusersBackend, prompts: list[str], seed: int, batch: int = 100, taps: Taps | None = None
) -> np.ndarray:
    """Pictures uint8 [n, 64, 64, 3], one per prompt, at seeds from `seed` on."""
    seeds = range(seed, seed + len(prompts))
    pictures = backend.sample(prompts, seeds, taps, output="pt", batch_size=batch, **DEMO)
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


def exchanged_row(backend: DiffusersBackend, concept: str, seed: int) -> dict[str, list[int]]:
    """By attribute: of the pairs that differ in it, how many recipients show the giver's value, and how many pairs.

    Each pair are two pictures of the bare prompt; at every step the recipient's middle block puts out the giver's.
    """
    prompts = [load_world().prompt(concept)] * 2 * PAIRS

    def give(h: Tensor, step: Step) -> Tensor:
        return torch.cat([h[:PAIRS], h[:PAIRS]])

    plain = judge(sample(backend, prompts, seed, len(prompts))).kinds
    given = judge(sample(backend, prompts, seed, len(prompts), {"mid": give})).kinds
    row = {}
    for attribute in load_world().truth[concept]:
        pairs = [i for i in range(PAIRS) if plain[i][attribute] != plain[PAIRS + i][attribute]]
        took = [given[PAIRS + i].has(plain[i][attribute]) for i in pairs]
        row[attribute] = [sum(took), len(pairs)]
    return row


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
    for attribute in {a for row in report["exchanged"].values() for a in row}:
        took, pairs = (sum(row.get(attribute, (0, 0))[i] for row in report["exchanged"].values()) for i in (0, 1))
        if took < EXCHANGED * pairs:
            bad.append(f"{attribute}: {took} of {pairs} pictures take it over with the middle block's output")
    if report["clip"]["held_out_accuracy"]["all"] < CLIP:
        bad.append(f"CLIP ranks {report['clip']['held_out_accuracy']['all']:.3f} of held-out attributes right")
    return bad


def measure(backend: DiffusersBackend, concept: str, bare: int, named: int) -> dict[str, dict]:
    """The rows of one concept, at seeds of its own."""
    world, number = load_world(), load_world().concepts.index(concept)
    # Far from the seeds that the model's last training phase was corrected on.
    seed = 10**9 + 10**6 * (number + 1)
    plain = bare_row(world, concept, judge(sample(backend, [world.prompt(concept)] * bare, seed)))
    prompts, wanted = named_prompts(world, concept, named, number)
    return {
        "bare": plain,
        "named": named_row(concept, judge(sample(backend, prompts, seed + bare)), wanted),
        "exchanged": exchanged_row(backend, concept, seed + bare + named),
    }


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
            print(concepts[number], rows[concepts[number]]["bare"]["concept"], flush=True)
        rows = gather(rows)
        if rank() != 0:
            return
    report: dict = {
        "sampler": type(backend.pipeline.scheduler).__name__,
        **DEMO,
        **{part: {concept: rows[concept][part] for concept in concepts} for part in ("bare", "named", "exchanged")},
        "clip": json.loads((CLIP_FOLDER / "gate.json").read_text()),
    }
    report["failures"] = failures(report)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(report["failures"]) or "all gates hold")


if __name__ == "__main__":
    main()

"""How often intervals hold an attribute's rate where it is known, over populations with other rates than the model's.

    python benchmarks/intervals.py --cache DIR [--model DIR] [--concepts choose|NAME ...] [--images 1000]
        [--populations 9] [--json FILE]

Ten concepts are too few to calibrate 95 % by. So each concept's 4,000 pictures are drawn from anew: every attribute
value becomes up to 3 times as common or as rare, 2,000 pictures are drawn by these weights, one half of them is
audited, and what the audit claims is held against the rates in all 2,000. Values then mix in proportions that the model
itself does not have. For choosing how intervals are computed, so by default on the half of the concepts that methods
are chosen on. About 20 CPU seconds a population, and .05 s a picture that is not in the cache yet.

Also prints the caution (`core/prevalence.py`) with which 95 % of the intervals would hold, and the one that is enough
with 90 % confidence when other concepts are drawn (bootstrap over concepts).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from emoji_eval import Collection, Lab, concepts_of, lab_options
from findings import case_of
from hapax.core.durable import write_file
from hapax.core.prevalence import prevalence

POOL, FACTOR, DRAWS = 4, 3.0, 1000


def population(pool: Collection, images: int, seed: int) -> Collection:
    """`images` of the pool's pictures, in random order, drawn without replacement by weights redrawn for each value."""
    generator = torch.Generator().manual_seed(seed)
    factors = (2 * torch.rand(len(pool.truth.values), generator=generator) - 1) * math.log(FACTOR)
    weights = pool.truth.has.float() @ factors
    # The largest of log-weights plus Gumbel noise are a draw without replacement (Efraimidis and Spirakis 2006).
    noise = -torch.empty(len(weights)).exponential_(generator=generator).log()
    rows = (weights + noise).topk(images).indices
    rows = rows[torch.randperm(images, generator=generator)].tolist()
    samples = [pool.samples[i] for i in rows]
    return Collection(pool.concept, pool.prompt, pool.store, samples, pool.truth.part(rows))


def claims(lab: Lab, pool: Collection, images: int, seed: int) -> list[dict[str, Any]]:
    """What an audit of one population claims of the features that find something, and what is true."""
    whole = population(pool, 2 * images, seed)
    case = case_of(lab, whole.first(images))
    found, rows = case.found(), []
    for number, seen in enumerate(found.looks):
        hit = case.collection.truth.found(found.exemplars(number).tolist())
        if hit:
            true, claim = whole.truth.rates[hit], found.prevalence(number)
            counted = prevalence(
                seen.shown, found.activations(number) > 0, found.rooms[number], seen.separation, caution=0.0
            )
            missed = max(1.0, counted["low"] / true, true / counted["high"])
            about = {"concept": pool.concept, "population": seed, "finds": hit, "true": true}
            about |= {"separation": seen.separation, "caution": math.log(missed) * seen.separation}
            rows.append(about | {key: claim[key] for key in ("rate", "low", "high")})
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """How many intervals hold, how many lie below or above, how wide they are."""
    held = [row["low"] <= row["true"] <= row["high"] for row in rows]
    below, above = (sum(row["true"] > row["high"] for row in rows), sum(row["true"] < row["low"] for row in rows))
    within = sum(0.5 * row["true"] <= row["rate"] <= 2 * row["true"] for row in rows)
    width = torch.tensor([row["high"] / max(row["low"], 1e-3) for row in rows]).median()
    return (
        f"{sum(held)} of {len(rows)} hold ({sum(held) / len(rows):.3f}); {below} lie below the truth, {above} above; "
        f"{within / len(rows):.2f} within a factor of 2; median of high / low {width:.2f}"
    )


def cautions(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """The caution with which 95 % of the intervals hold, and the 90 % quantile of it when concepts are drawn anew."""
    by_concept: dict[str, list[float]] = {}
    for row in rows:
        by_concept.setdefault(row["concept"], []).append(row["caution"])
    needed, generator = [torch.tensor(each) for each in by_concept.values()], torch.Generator().manual_seed(0)
    drawn = torch.randint(len(needed), (DRAWS, len(needed)), generator=generator).tolist()
    again = torch.stack([torch.cat([needed[i] for i in each]).quantile(0.95) for each in drawn])
    return float(torch.cat(needed).quantile(0.95)), float(again.quantile(0.9))


def main() -> None:
    """Audit the populations and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lab_options(parser)
    parser.add_argument("--populations", type=int, default=9, help="a concept")
    parser.add_argument("--json", type=Path, help="write all claims here")
    options = parser.parse_args()
    lab, rows = Lab(options.cache, options.model), []
    for concept in concepts_of(options.concepts):
        pool = lab.collection(concept, POOL * options.images)
        own = [row for seed in range(options.populations) for row in claims(lab, pool, options.images, seed)]
        print(f"{concept}: {summary(own)}", flush=True)
        rows += own
    print(f"all: {summary(rows)}")
    enough, sure = cautions(rows)
    print(f"caution for 95 %: {enough:.2f}; with 90 % confidence over concepts: {sure:.2f}")
    if options.json:
        write_file(options.json, json.dumps(rows, indent=1).encode())


if __name__ == "__main__":
    main()

"""What names and dials from captions are worth, measured on the emoji world, whose truth is known.

    python benchmarks/directions_emoji.py bank|names|random|steer --work DIR [options]

Run `bank` first: it builds the two indices (at least 500 captions) of `names` and `random`. `--half choose` keeps to
the concepts on which methods were chosen, the default `--half test` reports on the others. Recordings are kept in DIR
and resume. Each prints one JSON object with the bar beside the number, and fails on `--half test` where one is missed.

Minutes on two threads, reckoned from .03 s a picture of ten steps: bank 12, names 2, random 1, steer 10.
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from directions_world import concepts, judged, measure, options
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.commands.common import Bars
from hapax.core.directions import CaptionIndex, read_bank, record_dial
from hapax.core.emoji.judge import Verdict
from hapax.core.emoji.render import render
from hapax.core.emoji.world import Kind, World
from PIL import Image


def bank(world: World, names: tuple[str, ...]) -> list[str]:
    """The general bank that ships, and captions of these concepts that name none, one or two of their attributes."""
    captions = [*read_bank()]
    for concept in names:
        table = world.truth[concept]
        bare = world.prompt(concept)
        captions.append(bare)
        for attribute, values in table.items():
            for value in values:
                captions += [f"{bare}, {value}", world.caption(kind(world, concept, {attribute: value}), {attribute})]
        for first, second in combinations([a for a in table if a != "skin"] + ["skin"] * ("skin" in table), 2):
            if {first, second} == {"skin", "style"}:
                continue
            for a in table[first]:
                for b in table[second]:
                    captions.append(world.caption(kind(world, concept, {first: a, second: b}), {first, second}))
    return list(dict.fromkeys(captions))


def kind(world: World, concept: str, values: dict[str, str]) -> Kind:
    """A kind of the concept with these values, the others whatever comes first."""
    table = world.truth[concept]
    return Kind(concept, tuple((a, values.get(a, next(iter(table[a])))) for a in table))


def named(world: World, caption: str) -> set[str]:
    """The attribute values that a caption names, the longest reading first: medium dark skin is not dark skin."""
    values = {v for tables in world.truth.values() for table in tables.values() for v in table}
    found = set()
    for value in sorted(values, key=len, reverse=True):
        caption, count = re.subn(rf"\b{re.escape(value)}\b", " ", caption)
        if count:
            found.add(value)
    return found


def build(arguments: argparse.Namespace, backend: DiffusersBackend, world: World) -> dict:
    """Build both indices: of what the model does while it makes pictures, and of how they look to it."""
    captions, half = bank(world, concepts(world, bank_half(arguments))), bank_half(arguments)
    bars = Bars()
    for for_pictures in (False, True):
        index = CaptionIndex.build(
            backend,
            captions,
            seeds=arguments.seeds,
            steps=arguments.steps,
            guidance=1.0,
            batch_size=64,
            for_pictures=for_pictures,
            folder=arguments.work / f"recording-{half}{'-pictures' if for_pictures else ''}",
            progress=bars,
        )
        index.save(index_path(arguments, for_pictures))
    bars.close()
    return {"captions": len(index), "reliable": int(index.reliable.sum()), "bar": 500, "holds": len(index) >= 500}


def bank_half(arguments: argparse.Namespace) -> str:
    """Whose captions are in the bank: where methods are chosen, the other half's may not be."""
    return "choose" if arguments.half == "choose" else "all"


def index_path(arguments: argparse.Namespace, for_pictures: bool) -> Path:
    return arguments.work / f"index-{bank_half(arguments)}{'-pictures' if for_pictures else ''}.safetensors"


def pairs(world: World, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Every (concept, attribute, value)."""
    return [(c, a, v) for c in names for a, values in world.truth[c].items() for v in values]


def commonest(values: dict[str, float], but: str = "") -> str:
    return max((v for v in values if v != but), key=lambda v: values[v])


def name_changes(arguments: argparse.Namespace, backend: DiffusersBackend, world: World) -> dict:
    """Render each attribute against the commonest alternative, let the model look at both, name the difference.

    All but the style are rendered as flat pictures: in a line sketch, skin is hardly to be seen.
    """
    index, hits, misses = CaptionIndex.load(index_path(arguments, True)), {}, []
    for concept, attribute, value in pairs(world, concepts(world, arguments.half)):
        table = world.truth[concept]
        usual = {a: "flat picture" if a == "style" else commonest(values) for a, values in table.items()}
        other = commonest(table[attribute], but=value)
        with_it, without = (kind(world, concept, usual | {attribute: v}) for v in (value, other))
        naming = index.describe(rendered(with_it), rendered(without), 3, backend=backend, seeds=arguments.seeds)
        hit = any(value in named(world, name) for name, _ in naming.names)
        hits.setdefault(attribute, {}).setdefault(value, []).append(hit)
        if not hit:
            misses.append([concept, value, other, [name for name, _ in naming.nearest], round(naming.p, 3)])
    every = [hit for values in hits.values() for each in values.values() for hit in each]
    by_attribute = {a: float(np.mean([h for each in values.values() for h in each])) for a, values in hits.items()}
    share = float(np.mean(every))
    return {"named_in_top_3": share, "bar": 0.9, "holds": share >= 0.9, "by": by_attribute, "n": len(every)} | {
        "captions": len(index),
        "misses": misses,
    }


def rendered(of: Kind) -> Image.Image:
    return Image.fromarray(np.round(render(of) * 255).astype(np.uint8))


def random_names(arguments: argparse.Namespace, backend: DiffusersBackend, world: World) -> dict:
    """How often vectors that mean nothing get no good name, in the worse of the two indices."""
    indices = [CaptionIndex.load(index_path(arguments, each)) for each in (False, True)]
    vectors = torch.randn(2000, indices[0].meta["channels"], generator=torch.Generator().manual_seed(10**6))
    share = min(float(np.mean([not index.name(vector).names for vector in vectors])) for index in indices)
    return {"no_good_name": share, "bar": 0.95, "holds": share >= 0.95, "n": len(vectors)}


STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
ENOUGH, KEPT, ROUGH = 0.5, 0.95, 1.5


def steer(arguments: argparse.Namespace, backend: DiffusersBackend, world: World) -> dict:
    """Push each concept's bare prompt by the dial of each caption that names an attribute.

    The gentlest of `STRENGTHS` that reaches the bars is chosen on pictures of its own, 16 of them, and measured
    on fresh ones, at seeds that the dial wasn't recorded at. Attributes that the bare prompt shows in half of its
    pictures already are left out. `base` is what the same seeds show without the push.
    """
    base: dict[str, Verdict] = {}
    rows, search, fresh = [], range(2 * 10**5, 2 * 10**5 + 16), range(3 * 10**5, 3 * 10**5 + arguments.pictures)
    for concept, attribute, value in pairs(world, concepts(world, arguments.half)):
        if world.truth[concept][attribute][value] >= ENOUGH or (arguments.only and value not in arguments.only):
            continue
        bare = world.prompt(concept)
        base[concept] = base.get(concept) or judged(backend, bare, fresh)
        asked = judged(backend, f"{bare}, {value}", fresh)
        rough = ROUGH * float(asked.rmse.mean())
        options = {"seeds": range(10**5, 10**5 + arguments.seeds), "steps": arguments.steps, "guidance": 1.0}
        dial = record_dial(backend, f"{bare}, {value}", bare, batch_size=64, **options)

        def reached(verdict: Verdict, concept: str = concept, value: str = value, rough: float = rough) -> bool:
            good = verdict.share(value) >= ENOUGH and verdict.concept(concept) >= KEPT
            return good and float(verdict.rmse.mean()) <= rough

        chosen = next(
            (s for s in STRENGTHS if reached(judged(backend, bare, search, {"mid": dial.tap(s)}))), STRENGTHS[1]
        )
        verdict = judged(backend, bare, fresh, {"mid": dial.tap(chosen)})
        rows.append(
            {
                "concept": concept,
                "value": value,
                "strength": chosen,
                "base": base[concept].share(value),
                "share": verdict.share(value),
                "concept_kept": verdict.concept(concept),
                "rmse_ratio": float(verdict.rmse.mean() / asked.rmse.mean()),
                "holds": reached(verdict),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    share = float(np.mean([row["holds"] for row in rows]))
    return {"pairs_that_hold": share, "bar": 0.7, "holds": share >= 0.7, "n": len(rows), "pictures": len(fresh)}


COMMANDS = {"bank": build, "names": name_changes, "random": random_names, "steer": steer}


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=16, help="a caption or rendered picture")
    parser.add_argument("--pictures", type=int, default=64, help="of steer")
    parser.add_argument("--only", nargs="*", help="values for steer")
    return measure(parser, COMMANDS)


if __name__ == "__main__":
    raise SystemExit(main())

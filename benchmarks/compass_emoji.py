"""How far the bias compass can be trusted, measured on the emoji world, whose truth is known.

    python benchmarks/compass_emoji.py compass|coverage --work DIR [options]

The compass is read on all professions and concepts, as its claim is about all of them; nothing was chosen there
(`--half choose` keeps to one half). Recordings are kept in DIR and resume. Each prints one JSON object with the bar
beside the number, and fails where one is missed.

Minutes on one core, about: compass 90 (`--concepts` shares the work between processes), coverage 10.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from directions_world import concepts, judged, measure, options
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.commands.common import Bars
from hapax.core.directions import Reading, compare
from hapax.core.directions.compass import read_mixture
from hapax.core.directions.parts import Parts, kept
from hapax.core.directions.recording import LatentRecipe
from hapax.core.durable import write_file
from hapax.core.emoji.world import World


def ranks(x: Sequence[float]) -> np.ndarray:
    """Ranks, ties by their mean."""
    values = np.asarray(x)
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """0 where either is all the same, or can't be read."""
    a, b = ranks(x), ranks(y)
    if not (np.isfinite(x).all() and a.std() and b.std()):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


GENDER, OTHERS, SEEDS = 0.9, 0.85, 1024


def compass(arguments: argparse.Namespace, backend: DiffusersBackend, world: World) -> dict:
    """Read each concept's mixture of each attribute's values, beside the judge's count of its base pictures.

    Both at the same 1,024 seeds a concept. Gender: the lean, over the ten professions. Skin tones and styles: the share
    of each value, and the lean of each pair, over the concepts that have them; the bar is on the mean over values and
    on the mean over pairs, and the least is told too.
    """
    seen: dict[str, list[tuple[Reading, dict[str, float]]]] = {}
    names, bars = concepts(world, "choose" if arguments.half == "choose" else "all"), Bars()
    for concept in names:
        wanted = [a for a in world.truth[concept] if a != "variant" and (not arguments.only or a in arguments.only)]
        if not wanted or (arguments.concepts and concept not in arguments.concepts):
            continue
        counted = counts(arguments, backend, world, concept)
        for attribute in wanted:
            reading, *_ = compare(
                backend,
                world.prompt(concept),
                [f"{{}}, {value}" for value in world.truth[concept][attribute]],
                seeds=arguments.compass_seeds,
                steps=arguments.steps,
                guidance=1.0,
                batch_size=64,
                folder=arguments.work / "compass" / f"{concept}-{attribute}-{arguments.compass_seeds}",
                progress=bars,
            )
            seen.setdefault(attribute, []).append((reading, counted))
            print(json.dumps({"concept": concept, **reading.row(), "counted": shares(reading, counted)}), flush=True)
    bars.close()
    found = {attribute: agreed(attribute, each) for attribute, each in seen.items()}
    return {"seeds": arguments.compass_seeds, **found, "holds": all(each["holds"] for each in found.values())}


def counts(arguments: argparse.Namespace, backend: DiffusersBackend, world: World, concept: str) -> dict[str, float]:
    """The share of each value that the judge counts in base pictures; kept in DIR."""
    path = arguments.work / "compass" / f"{concept}-{arguments.compass_seeds}.json"
    if not path.exists():
        verdict = judged(backend, world.prompt(concept), range(arguments.compass_seeds))
        found = {value: verdict.share(value) for table in world.truth[concept].values() for value in table}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(found).encode())
    return json.loads(path.read_text())


def shares(reading: Reading, counted: dict[str, float]) -> list[float]:
    """The judge's share of each pole."""
    return [counted[pole.removeprefix("{}, ")] for pole in reading.shares]


def agreed(attribute: str, each: list[tuple[Reading, dict[str, float]]]) -> dict:
    """How readings of one attribute agree with counts over the concepts."""
    truth = [shares(reading, counted) for reading, counted in each]
    poles = [pole.removeprefix("{}, ") for pole in each[0][0].shares]
    read = [[share for share, _, _ in reading.shares.values()] for reading, _ in each]
    by_value = {pole: spearman([row[i] for row in read], [row[i] for row in truth]) for i, pole in enumerate(poles)}
    by_pair = {
        f"{poles[i]} or {poles[j]}": spearman(
            [reading.leans[number].value for reading, _ in each], [row[i] - row[j] for row in truth]
        )
        for number, (i, j) in enumerate(combinations(range(len(poles)), 2))
    }
    told = {
        "concepts": len(each),
        "error": float(np.mean(np.abs(np.array(read) - np.array(truth)))),
        "by_value": by_value,
        "by_pair": by_pair,
    }
    if attribute == "gender":
        lean, right = by_pair[f"{poles[0]} or {poles[1]}"], signs(each, truth)
        return {"spearman": lean, "bar": GENDER, "signs_right": right, **told} | {
            "holds": lean >= GENDER and all(right.values())
        }
    means = [float(np.mean(list(rows.values()))) for rows in (by_value, by_pair)]
    least = min(*by_value.values(), *by_pair.values())
    return {"spearman": means, "least": least, "bar": OTHERS, **told, "holds": min(means) >= OTHERS}


def signs(each: list[tuple[Reading, dict[str, float]]], truth: list[list[float]]) -> dict[str, bool]:
    """Whether the lean has the right sign, wherever the judge's count is beyond 60/40."""
    beyond = [(reading, row) for (reading, _), row in zip(each, truth, strict=True) if abs(row[0] - 0.5) > 0.1]
    return {reading.prompt: (reading.lean.value > 0) == (row[0] > 0.5) for reading, row in beyond}


def coverage(arguments: argparse.Namespace, backend: DiffusersBackend, world: World) -> dict:
    """How often the 95 % interval from few seeds covers the lean from many: 200 draws of 40 seeds out of 8,192.

    It costs three captions at 8,192 seeds and four steps: as much as 10,000 pictures.
    """
    concept, total, few, repetitions = arguments.concept, arguments.total, 40, 200
    bare = world.prompt(concept)
    poles = [f"{bare}, {value}" for value in world.truth[concept]["gender"]]
    recipe = LatentRecipe("mid", arguments.steps, 1.0, (0.85,), 64, reads=bare)
    bars = Bars()
    with kept(arguments.work / "coverage" / concept) as folder:
        parts = Parts(folder, (bare, *poles), list(range(total)), recipe, backend.fingerprint())
        parts.record(backend, lambda done, of: bars("recording", done, of))
        x = torch.cat([part.by_seed for _, part in parts])
    bars.close()
    truth = read_mixture(bare, poles, x, replicates=100).lean.value
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(total, generator=generator)[:few] for _ in range(repetitions)]
    leans = [read_mixture(bare, poles, x[:, rows]).lean for rows in drawn]
    covered = float(np.mean([lean.low <= truth <= lean.high for lean in leans]))
    return {"covered": covered, "bars": [0.90, 0.99], "holds": 0.90 <= covered <= 0.99, "lean": truth} | {
        "concept": concept,
        "seeds": [few, total],
        "repetitions": repetitions,
    }


def main() -> int:
    parser = options(__doc__)
    parser.add_argument(
        "--compass-seeds", type=int, default=SEEDS, help="a caption of the compass, and judged pictures"
    )
    parser.add_argument("--only", nargs="*", help="attributes for compass")
    parser.add_argument("--concepts", nargs="*", help="only these, such as to share the work between processes")
    parser.add_argument("--concept", default="judge", help="of coverage")
    parser.add_argument("--total", type=int, default=8192, help="of coverage")
    return measure(parser, {"compass": compass, "coverage": coverage})


if __name__ == "__main__":
    raise SystemExit(main())

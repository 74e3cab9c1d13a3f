"""Recall, precision and honest rates over k, the autoencoder's size, the steps scored and the number of pictures.

    python benchmarks/findings_sweep.py --cache DIR [--model DIR] [--concepts choose|NAME ...] [--axes k size ...]
        [--small] --out DIR

One axis is varied at a time around the default; each gives a plot (SVG), and its figures go into sweep.json, beside
those of other axes. For choosing, so by default on the half of the concepts that methods are chosen on. About 25 CPU
seconds a point and concept, in proportion to the pictures; `--small` takes two points an axis and few pictures, to see
that it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emoji_eval import Lab, concepts_of, lab_options
from finding_arms import ARMS, LISTED
from findings import SIZE, STEPS, Score, case_of
from hapax.core.durable import write_file
from hapax.core.findings import SAESize

METRICS = {"recall": "#1b6ca8", "precision": "#b3541e", "within_factor_2": "#3a7d44"}
TITLES = {
    "k": "latents active at once (k)",
    "size": "latents of the autoencoder, and of its coarse part",
    "steps": "steps scored, of ten",
    "pictures": "pictures of the prompt",
}
WIDTH, HEIGHT, EDGE = 520, 320, 56


@dataclass(frozen=True)
class Point:
    """One setting."""

    label: str
    size: SAESize = SIZE
    steps: tuple[int, ...] = STEPS
    images: int = 1000


def axes(images: int) -> dict[str, list[Point]]:
    """The settings along each axis, the default among them."""
    sizes = ((320, 64), (640, 128), (1280, 256), (2560, 512))
    steps = {"last": (9,), "late": (5, 7, 9), "spread": STEPS, "all": tuple(range(10))}
    return {
        "k": [Point(str(k), size=replace(SIZE, k=k), images=images) for k in (4, 8, 12, 24, 48)],
        "size": [Point(f"{n}/{c}", size=replace(SIZE, latents=n, coarse=c), images=images) for n, c in sizes],
        "steps": [Point(name, steps=chosen, images=images) for name, chosen in steps.items()],
        "pictures": [Point(str(n), images=n) for n in (250, 500, 1000, 2000, 4000) if n <= 4 * images],
    }


def measure(lab: Lab, concepts: list[str], point: Point, done: dict[Point, Score]) -> Score:
    """What an audit of each concept finds with this setting; the default lies on every axis, and is measured once."""
    setting = replace(point, label="")
    if setting not in done:
        done[setting] = _measured(lab, concepts, point)
    return done[setting]


def _measured(lab: Lab, concepts: list[str], point: Point) -> Score:
    score = Score()
    for concept in concepts:
        collection = lab.collection(concept, point.images)
        case = case_of(lab, collection, point.size, point.steps)
        score.add(concept, collection.truth, ARMS["hapax"](case, LISTED))
    return score


def plot(title: str, labels: Sequence[str], curves: dict[str, list[float]]) -> str:
    """Shares in [0, 1] over settings, as SVG."""
    span = max(1, len(labels) - 1)

    def spot(index: int, value: float) -> tuple[float, float]:
        return EDGE + index * (WIDTH - 2 * EDGE) / span, HEIGHT - EDGE - value * (HEIGHT - 2 * EDGE)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">']
    parts.append(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    parts.append(f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="15">{title}</text>')
    for tenth in range(0, 11, 2):
        _, y = spot(0, tenth / 10)
        parts.append(f'<line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{EDGE - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="11">{10 * tenth} %</text>')
    for index, label in enumerate(labels):
        x, _ = spot(index, 0)
        below = HEIGHT - EDGE + 18
        parts.append(f'<text x="{x:.1f}" y="{below}" text-anchor="middle" font-size="11">{label}</text>')
    for number, (name, values) in enumerate(curves.items()):
        points = [spot(index, value) for index, value in enumerate(values)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{METRICS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{METRICS[name]}"/>' for x, y in points]
        left = EDGE + number * 140
        said = name.replace("_", " ")
        parts.append(f'<text x="{left}" y="{HEIGHT - 12}" font-size="12" fill="{METRICS[name]}">{said}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Sweep, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lab_options(parser)
    parser.add_argument("--axes", nargs="+", choices=list(axes(1)), default=list(axes(1)))
    parser.add_argument("--small", action="store_true", help="two points an axis, 250 pictures")
    parser.add_argument("--out", type=Path, default=Path("out/sweep"), help="folder for the plots and sweep.json")
    options = parser.parse_args()
    lab, concepts = Lab(options.cache, options.model), concepts_of(options.concepts)
    kept = options.out / "sweep.json"
    whole = json.loads(kept.read_text()) if kept.exists() else {}
    done: dict[Point, Score] = {}
    options.out.mkdir(parents=True, exist_ok=True)
    for axis, points in axes(250 if options.small else options.images).items():
        if axis not in options.axes:
            continue
        chosen, shares = points[:2] if options.small else points, []
        for point in chosen:
            score = measure(lab, concepts, point, done)
            shares.append(score.shares())
            print(score.line(f"{axis} {point.label}"), flush=True)
        curves = {name: [share[name][0] / max(1, share[name][1]) for share in shares] for name in METRICS}
        labels = [point.label for point in chosen]
        write_file(options.out / f"sweep-{axis}.svg", plot(TITLES[axis], labels, curves).encode())
        whole[axis] = {"concepts": concepts, "labels": labels, "shares": shares}
    write_file(kept, json.dumps(whole, indent=1).encode())


if __name__ == "__main__":
    main()

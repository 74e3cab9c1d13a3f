"""Cost of Schur Complement Entropy against the number of pairs, for its three forms; plotted.

    python benchmarks/sce_scaling.py [--most 4000] [--out sce_scaling.svg]

Cosine (d x d), Gaussian exact (n x n) and Gaussian by 1,000 random frequencies (2,000 x 2,000), d = 512, all
prompts different. CPU seconds of this process. The exact form grows as n^3 and is what the library takes up to
5,000 pairs; the others grow as n beyond a fixed cost. Takes 2 minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path

import torch
from hapax.core.report.markup import el
from hapax.core.sce import schur_complement_entropy

FORMS = {
    "cosine": {},
    "Gaussian, exact": {"kernel": "gaussian", "sigma": 0.7},
    "Gaussian, 1,000 frequencies": {"kernel": "gaussian", "sigma": 0.7, "rff_dim": 1000},
}
COLOURS = ("#2f6fb0", "#c4552d", "#4a8f4a")
WIDTH, HEIGHT, EDGE = 640, 420, 60


def seconds(n: int, options: dict) -> float:
    g = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(n, 512, generator=g)) for _ in range(2))
    start = time.process_time()
    schur_complement_entropy(image, text, **options)
    return time.process_time() - start


def plot(sizes: list[int], times: dict[str, list[float]]) -> str:
    """Lines on two logarithmic axes."""
    low = math.floor(math.log10(min(min(line) for line in times.values())))
    high = math.ceil(math.log10(max(max(line) for line in times.values())))

    def x(n: float) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * math.log(n / sizes[0]) / math.log(sizes[-1] / sizes[0])

    def y(value: float) -> float:
        return HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (math.log10(value) - low) / (high - low)

    marks = [el("text", f"{n:,}", x=x(n), y=HEIGHT - EDGE + 20, text_anchor="middle") for n in sizes]
    for power in range(low, high + 1):
        at = y(10**power)
        marks.append(el("line", x1=EDGE, x2=WIDTH - EDGE, y1=at, y2=at, stroke="#ddd"))
        marks.append(el("text", f"{10**power:g} s", x=EDGE - 8, y=at + 4, text_anchor="end"))
    for colour, (name, line) in zip(COLOURS, times.items(), strict=True):
        way = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in zip(sizes, line, strict=True))
        marks.append(el("polyline", points=way, fill="none", stroke=colour, stroke_width=2.5))
        marks.append(el("text", name, x=EDGE + 12, y=24 + 18 * COLOURS.index(colour), fill=colour))
    marks.append(el("text", "pairs", x=WIDTH / 2, y=HEIGHT - 12, text_anchor="middle"))
    paper = el("rect", width=WIDTH, height=HEIGHT, fill="white")
    size = {"width": WIDTH, "height": HEIGHT, "font_family": "sans-serif", "font_size": 13}
    return str(el("svg", paper, marks, xmlns="http://www.w3.org/2000/svg", **size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path("sce_scaling.svg"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes = [n for n in (250 * 2**power for power in range(20)) if n <= given.most]
    seconds(200, {})
    times = {name: [seconds(n, options) for n in sizes] for name, options in FORMS.items()}
    print(f"{'pairs':>30}" + "".join(f"{n:>10,}" for n in sizes))
    for name, line in times.items():
        print(f"{name:>30}" + "".join(f"{value:>8.2f} s" for value in line))
    given.out.write_text(plot(sizes, times), "utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()

"""Charts as inline SVG: the rate bar, the dots of "one in N", the map of rarity against distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .markup import Html, el, join
from .numbers import interval

WIDTH, HEIGHT = 480, 350
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 20, 26, 44
_LETTER = 6.6
_MOST_DOTS = 120
_PER_ROW = 20

Row = dict[str, Any]


def rate_bar(rate: float, low: float, high: float) -> Html:
    """A bar from 0 to 100 % with the interval as a whisker; the numbers stand beside it as text."""
    still = "non-scaling-stroke"
    start, end = 400 * low, 400 * high
    quarters = [el("line", x1=x, x2=x, y1=5, y2=11, class_="tick", vector_effect=still) for x in (100, 200, 300, 400)]
    caps = [el("line", x1=_at(x), x2=_at(x), y1=3, y2=13, class_="whisker", vector_effect=still) for x in (start, end)]
    return el(
        "svg",
        el("rect", class_="track", x=0, y=7, width=400, height=2),
        quarters,
        el("rect", class_="bar", x=0, y=4, width=_at(max(400 * rate, 1)), height=8),
        el("line", x1=_at(start), x2=_at(end), y1=8, y2=8, class_="whisker", vector_effect=still),
        caps,
        class_="rate-bar",
        viewBox="0 0 400 16",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def dots(share: float) -> Html:
    """One lit dot among N: what "about 1 in N" looks like. Nothing where N is 1, or above 120."""
    number = round(1 / share) if share > 0 else 0
    if not 2 <= number <= _MOST_DOTS:
        return Html("")
    # The golden section puts the one dot somewhere inside, the same place each time.
    lit = int(number * 0.618)
    spots = [
        el(
            "circle",
            class_="lit" if index == lit else "dot",
            cx=5 + 10 * (index % _PER_ROW),
            cy=5 + 10 * (index // _PER_ROW),
            r=4.2 if index == lit else 2.6,
        )
        for index in range(number)
    ]
    rows = math.ceil(number / _PER_ROW)
    return el("svg", spots, class_="dots", viewBox=f"0 0 200 {10 * rows}", aria_hidden="true")


def rarity_map(features: Sequence[tuple[Row, str]], axes: Axes, title: str) -> Html:
    """Frequency (log scale) against distinctiveness; findings are filled and wear their intervals.

    Each mark links to its card. The marks are told apart by shape as well as by colour.

    Args:
        features: rows and their names, best first.
        axes: the same for all maps that stand side by side.
        title: what screen readers call the map.
    """
    shown = [(f, name) for f, name in features if f["frequency"] > 0]
    quiet = [_mark(f, name, axes) for f, name in shown if not f["finding"]]
    findings = [_mark(f, name, axes) for f, name in shown if f["finding"]]
    return el(
        "svg",
        el("title", title),
        axes.draw(),
        quiet,
        findings,
        _names(shown, axes),
        class_="map",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="group",
    )


class Axes:
    """Where a feature stands on a map: the scales that hold all of ``features``."""

    def __init__(self, features: Sequence[Row]) -> None:
        fired = [f for f in features if f["frequency"] > 0]
        lowest = min((max(f["frequency_low"], f["frequency"] / 4) for f in fired), default=0.01)
        tops = [f["distinctiveness_high"] or 0 for f in features if f["finding"]]
        self.low = math.log10(min(lowest * 0.9, 0.3))
        self.top = max([*tops, *(f["distinctiveness"] for f in features), 1e-3]) * 1.08

    def x(self, share: float) -> float:
        """Pixels from the left for a share on the log scale."""
        place = (math.log10(max(share, 10**self.low)) - self.low) / -self.low
        return _LEFT + place * (WIDTH - _LEFT - _RIGHT)

    def y(self, distance: float) -> float:
        """Pixels from the top for a cosine distance."""
        return HEIGHT - _BOTTOM - min(distance / self.top, 1) * (HEIGHT - _TOP - _BOTTOM)

    def draw(self) -> Html:
        """Grid lines, ticks and the two axis titles."""
        floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        steps = [s for s in (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if math.log10(s) >= self.low]
        across = [
            join(
                el("line", class_="grid", x1=_at(self.x(s)), x2=_at(self.x(s)), y1=_TOP, y2=floor),
                el("text", f"{100 * s:g} %", x=_at(self.x(s)), y=floor + 16, text_anchor="middle"),
            )
            for s in steps
        ]
        up = [
            join(
                el("line", class_="grid", x1=_LEFT, x2=right, y1=_at(self.y(t)), y2=_at(self.y(t))),
                el("text", f"{t:g}", x=_LEFT - 6, y=_at(self.y(t) + 4), text_anchor="end"),
            )
            for t in _ticks(self.top)
        ]
        titles = (
            el("text", "\u2190 rarer", class_="axis", x=_LEFT, y=HEIGHT - 10),
            el(
                "text",
                "share of pictures",
                class_="axis",
                x=(_LEFT + right) / 2,
                y=HEIGHT - 10,
                text_anchor="middle",
            ),
            el("text", "more usual \u2192", class_="axis", x=right, y=HEIGHT - 10, text_anchor="end"),
            el("text", "\u2191 further from the average picture", class_="axis", x=_LEFT, y=14),
        )
        return el("g", across, up, titles, aria_hidden="true")


def _mark(feature: Row, name: str, axes: Axes) -> Html:
    x, y = axes.x(feature["frequency"]), axes.y(feature["distinctiveness"])
    rate = interval(feature["frequency"], feature["frequency_low"], feature["frequency_high"])
    said = f"{name}: {rate} of pictures, distinctiveness {feature['distinctiveness']:.2f}"
    if not feature["finding"]:
        shape = el("circle", class_="other", cx=_at(x), cy=_at(y), r=3.5)
    else:
        diamond = f"M{_at(x)} {_at(y - 6.5)}l6.5 6.5l-6.5 6.5l-6.5-6.5z"
        shape = join(_cross(feature, axes, x, y), el("path", class_="finding", d=diamond))
    return el("a", el("title", said), shape, href=f"#feature-{feature['id']}", aria_label=said)


def _cross(feature: Row, axes: Axes, x: float, y: float) -> Html:
    """Both 95 % intervals of a finding."""
    left, right = axes.x(feature["frequency_low"]), axes.x(feature["frequency_high"])
    foot, head = axes.y(feature["distinctiveness_low"]), axes.y(feature["distinctiveness_high"])
    return join(
        el("line", class_="whisker", x1=_at(left), x2=_at(right), y1=_at(y), y2=_at(y)),
        el("line", class_="whisker", x1=_at(x), x2=_at(x), y1=_at(foot), y2=_at(head)),
    )


def _names(features: Sequence[tuple[Row, str]], axes: Axes) -> list[Html]:
    """Findings' names beside their marks, best first, each where it covers nothing, else left out."""
    taken = [_around(axes.x(f["frequency"]), axes.y(f["distinctiveness"]), 7) for f, _ in features]
    drawn: list[Html] = []
    for feature, name in features:
        if not feature["finding"] or not feature.get("label"):
            continue
        short = name if len(name) <= 26 else name[:25] + "\u2026"
        x, y = axes.x(feature["frequency"]), axes.y(feature["distinctiveness"])
        wide = _LETTER * len(short)
        for left, middle in (
            (x + 10, y - 6),
            (x - 10 - wide, y - 6),
            (x + 10, y + 9),
            (x - 10 - wide, y + 9),
        ):
            box = (left, middle - 7, left + wide, middle + 7)
            inside = left >= _LEFT and box[2] <= WIDTH - 2 and box[1] >= _TOP
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                drawn.append(el("text", short, class_="name", x=_at(left), y=_at(middle + 4)))
                break
    return drawn


def _around(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _ticks(top: float) -> list[float]:
    """Three to six round numbers up to ``top``.

    >>> _ticks(0.47)
    [0.1, 0.2, 0.3, 0.4]
    """
    power = 10.0 ** math.floor(math.log10(top / 3))
    step = next(power * s for s in (1, 2, 5, 10) if top / (power * s) < 6)
    return [round(step * n, 10) for n in range(1, int(top / step) + 1)]


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

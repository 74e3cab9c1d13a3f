"""Scores as pictures, in the style of the contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..core.contact_sheet import ACCENT, FAINT, INK, MARGIN, PAGE, PANEL, SOFT, write

OTHER = "#7fb4d6"
WIDTH, HEAD, GAP, LABEL, NUMBER, LINE = 960, 84, 10, 300, 210, 34
COLOURS = (ACCENT, OTHER)
_MEASURES = (
    ("image", "SCE beyond the prompts", "diversity that prompts don't explain"),
    ("image_effective", "kinds beyond the prompts", "as diverse as so many equal kinds"),
    ("text_effective", "kinds owed to the prompts", "what the prompts themselves vary"),
)
Named = tuple[str, dict[str, Any]]


class Page:
    """A dark page with a title, on which panels are drawn from the top to the bottom."""

    def __init__(self, title: str, subtitle: str, height: int) -> None:
        self.picture = Image.new("RGB", (WIDTH, height), PAGE)
        self.draw = ImageDraw.Draw(self.picture)
        write(self.draw, (MARGIN, MARGIN - 4), title, 32, INK, WIDTH - 2 * MARGIN)
        write(self.draw, (MARGIN, MARGIN + 40), subtitle, 18, SOFT, WIDTH - 2 * MARGIN)
        self.top = MARGIN + HEAD

    def panel(self, height: int) -> tuple[int, int]:
        """Draw an empty panel; left and upper edge of what it has room for."""
        self.draw.rounded_rectangle((MARGIN, self.top, WIDTH - MARGIN, self.top + height), 10, PANEL)
        place = MARGIN + 18, self.top + 14
        self.top += height + GAP
        return place

    def pixels(self) -> Tensor:
        """uint8 [H, W, 3]."""
        raw = bytearray(self.picture.tobytes())
        return torch.frombuffer(raw, dtype=torch.uint8).view(self.picture.height, WIDTH, 3)


def score_plot(scores: Sequence[Named], title: str, subtitle: str) -> Tensor:
    """One or two scores, by name, with their intervals: uint8 [H, W, 3].

    Args:
        scores: (name, row of `score_row`) each.
    """
    height = 34 + LINE * max(2, len(scores))
    page = Page(title, subtitle, MARGIN + HEAD + 4 * (height + GAP) + MARGIN - GAP)
    for key, name, meaning in _MEASURES:
        x, y = page.panel(height)
        _titled(page, x, y, name, meaning)
        _intervals(page, x + LABEL, y, key, scores)
    x, y = page.panel(height)
    _titled(page, x, y, "share of the variance", "bright: beyond the prompts")
    _shares(page, x + LABEL, y, scores)
    return page.pixels()


def growth_plot(points: Tensor, title: str, subtitle: str) -> Tensor:
    """How a score moves as pictures come in: uint8 [H, W, 3].

    Args:
        points: [r, 3] pictures so far, kinds beyond the prompts, kinds owed to the prompts; after each run.
    """
    page = Page(title, subtitle, MARGIN + HEAD + 400 + MARGIN)
    x, y = page.panel(400)
    left, right, up, down = x + 50, WIDTH - MARGIN - 190, y + 20, y + 330
    last, most = float(points[-1, 0]), float(points[:, 1:].max())
    ticks = _ticks(0.0, most * 1.1)
    highest = max(ticks[-1], most * 1.1)

    def place(n: float, value: float) -> tuple[float, float]:
        return left + (right - left) * n / last, down - (down - up) * value / highest

    for tick in ticks:
        height = place(0, tick)[1]
        page.draw.line((left, height, right, height), FAINT)
        write(page.draw, (x, height - 8), f"{tick:g}", 15, SOFT, 45)
    for tick in _ticks(0.0, last):
        write(page.draw, (place(tick, 0)[0] - 8, down + 8), f"{tick:,.0f}", 15, SOFT, 80)
    write(page.draw, (left, down + 34), "pictures", 16, SOFT, 200)
    ends = [place(last, float(points[-1, column]))[1] for column in (1, 2)]
    for column, colour, name in ((1, ACCENT, "beyond the prompts"), (2, OTHER, "owed to the prompts")):
        line = [place(float(row[0]), float(row[column])) for row in points]
        if len(line) > 1:
            page.draw.line(line, colour, 3, joint="curve")
        for a, b in line[:: max(1, len(line) // 60)] + line[-1:]:
            page.draw.ellipse((a - 4, b - 4, a + 4, b + 4), colour)
        # Names that would lie on each other part: the higher line's goes up.
        near = abs(ends[0] - ends[1]) < 44
        shift = (-22 if ends[column - 1] < ends[2 - column] or (column == 1 and ends[0] == ends[1]) else 22) * near
        write(page.draw, (right + 14, line[-1][1] - 20 + shift), f"{points[-1, column]:.2f}", 22, INK, 160)
        write(page.draw, (right + 14, line[-1][1] + 4 + shift), name, 15, colour, 170)
    return page.pixels()


def _titled(page: Page, x: int, y: int, name: str, meaning: str) -> None:
    write(page.draw, (x, y + 4), name, 20, INK, LABEL - 16)
    write(page.draw, (x, y + 34), meaning, 14, SOFT, LABEL - 10)


def _intervals(page: Page, x: int, y: int, key: str, scores: Sequence[Named]) -> None:
    """A dot a score, on an axis that all share, with a whisker over its interval."""
    spans = [row[f"{key}_interval"] or (row[key], row[key]) for _, row in scores]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    room, spare = WIDTH - MARGIN - NUMBER - x, max(0.15 * (high - low), 0.02 * high)
    low, high = low - spare, high + spare

    def across(value: float) -> float:
        return x + room * (value - low) / (high - low)

    bottom = y + LINE * max(2, len(scores)) - 12
    for tick in _ticks(low, high):
        page.draw.line((across(tick), y, across(tick), bottom), FAINT)
        write(page.draw, (across(tick) - 10, bottom + 5), f"{tick:g}", 14, SOFT, 60)
    for number, ((name, row), span) in enumerate(zip(scores, spans, strict=True)):
        colour, middle = COLOURS[number], y + 8 + LINE * number + (0 if len(scores) > 1 else LINE // 2 - 6)
        page.draw.rounded_rectangle((across(span[0]), middle - 3, across(span[1]), middle + 3), 3, _dim(colour))
        at = across(row[key])
        page.draw.ellipse((at - 7, middle - 7, at + 7, middle + 7), colour)
        _number(page, middle, f"{row[key]:.2f}", name, colour)


def _shares(page: Page, x: int, y: int, scores: Sequence[Named]) -> None:
    """A bar a score: what prompts leave open, and what they explain."""
    room = WIDTH - MARGIN - NUMBER - x
    for number, (name, row) in enumerate(scores):
        colour, middle = COLOURS[number], y + 8 + LINE * number + (0 if len(scores) > 1 else LINE // 2 - 6)
        share = row["trace_image"] / (row["trace_image"] + row["trace_text"])
        page.draw.rounded_rectangle((x, middle - 8, x + room, middle + 8), 4, FAINT)
        page.draw.rounded_rectangle((x, middle - 8, x + max(8, room * share), middle + 8), 4, colour)
        _number(page, middle, f"{100 * share:.0f} %", name, colour)


def _number(page: Page, middle: float, number: str, name: str, colour: str) -> None:
    x = WIDTH - MARGIN - NUMBER + 20
    write(page.draw, (x, middle - 12), number, 20, INK, 80)
    write(page.draw, (x + 80, middle - 9), name, 16, colour, NUMBER - 110)


def _dim(colour: str) -> str:
    """Halfway from a colour to the panel."""
    pairs = [(int(colour[i : i + 2], 16), int(PANEL[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{(a + b) // 2:02x}" for a, b in pairs)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers in [low, high], about `count` of them.

    They are whole multiples of 1, 2 or 5 times a power of ten.
    """
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]

"""The bias compass as a picture: a bar a pole, with its interval, for each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..core.contact_sheet import ACCENT, FAINT, INK, MARGIN, SOFT, write
from ..core.directions import Reading
from ..core.directions.compass import pole_name
from .plots import GAP, HEAD, LABEL, LINE, NUMBER, OTHER, WIDTH, Page

# One a pole, 8 at most.
_COLOURS = (ACCENT, OTHER, "#d97f8e", "#8fc98b", "#b79ae0", "#d9c27a", "#77c9c2", "#c98f6b")
_ROOM = WIDTH - 2 * MARGIN - 18 - LABEL - NUMBER


def compass_plot(readings: Sequence[Reading], subtitle: str) -> Tensor:
    """Shares of the poles of each prompt: uint8 [H, W, 3].

    Args:
        readings: of one set of poles.
        subtitle: how they were made.
    """
    height = 28 + LINE * max(2, len(readings[0].shares))
    page = Page("What the model assumes", subtitle, MARGIN + HEAD + len(readings) * (height + GAP) - GAP + MARGIN)
    for reading in readings:
        x, y = page.panel(height)
        write(page.draw, (x, y + 4), reading.prompt, 20, INK, LABEL - 16)
        lean = reading.lean
        ends = f"-1 {pole_name(lean.second)}, +1 {pole_name(lean.first)}"
        if len(reading.leans) == 1:
            write(page.draw, (x, y + 34), f"lean {lean}", 14, SOFT, LABEL - 10)
            write(page.draw, (x, y + 54), ends, 14, SOFT, LABEL - 10)
        for number, (pole, (share, low, high)) in enumerate(reading.shares.items()):
            _bar(page, x + LABEL, y + 12 + LINE * number, (share, low, high), pole_name(pole), _COLOURS[number])
    return page.pixels()


def _bar(page: Page, x: int, middle: int, spread: tuple[float, float, float], name: str, colour: str) -> None:
    share, low, high = (x + _ROOM * each for each in spread)
    page.draw.rounded_rectangle((x, middle - 7, x + _ROOM, middle + 7), 4, FAINT)
    page.draw.rounded_rectangle((x, middle - 7, max(share, x + 8), middle + 7), 4, colour)
    for end in (low, high):
        page.draw.line((end, middle - 11, end, middle + 11), INK, 2)
    page.draw.line((low, middle, high, middle), INK, 2)
    write(page.draw, (x + _ROOM + 20, middle - 12), f"{100 * spread[0]:.0f} %", 20, INK, 80)
    write(page.draw, (x + _ROOM + 96, middle - 9), name, 16, colour, NUMBER - 100)

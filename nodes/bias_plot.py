"""Groups before and after guidance as a picture: a bar each, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..core.contact_sheet import ACCENT, FAINT, INK, MARGIN, SOFT, write
from ..core.invdiff.evaluation import Judged
from ..core.invdiff.metrics import bias_interval
from ..core.statistics import wilson_interval
from .plots import GAP, HEAD, LABEL, LINE, NUMBER, OTHER, WIDTH, Page

_ROOM = WIDTH - 2 * MARGIN - 18 - LABEL - NUMBER
_COLOURS = {"before": OTHER, "after": ACCENT}


def bias_plot(title: str, subtitle: str, names: Sequence[str], sides: Mapping[str, Judged]) -> Tensor:
    """Shares of the groups, and the bias of each side: uint8 [H, W, 3].

    Args:
        title, subtitle: what the pictures are of, and how they were counted.
        names: of the groups.
        sides: `before`, if there is one, and `after`.
    """
    height = 28 + LINE * max(2, len(names))
    page = Page(title, subtitle, MARGIN + HEAD + len(sides) * (height + GAP) - GAP + MARGIN)
    for end, side in sides.items():
        x, y = page.panel(height)
        score, low, high = bias_interval(side.counts)
        write(page.draw, (x, y + 4), end if len(sides) > 1 else "bias", 20, INK, LABEL - 16)
        write(page.draw, (x, y + 34), f"bias {score:.2f} ({low:.2f} to {high:.2f})", 14, SOFT, LABEL - 10)
        for number, (name, count) in enumerate(zip(names, side.counts.tolist(), strict=True)):
            _bar(page, x + LABEL, y + 12 + LINE * number, count, side.total, name, _COLOURS[end])
        # Where all bars end if the groups are even.
        even = x + LABEL + _ROOM / len(names)
        page.draw.line((even, y, even, y + LINE * len(names)), SOFT, 1)
    return page.pixels()


def _bar(page: Page, x: int, middle: int, count: int, total: int, name: str, colour: str) -> None:
    low, high = (x + _ROOM * float(end) for end in wilson_interval(count, total))
    share = x + _ROOM * count / total
    page.draw.rounded_rectangle((x, middle - 7, x + _ROOM, middle + 7), 4, FAINT)
    page.draw.rounded_rectangle((x, middle - 7, max(share, x + 8), middle + 7), 4, colour)
    page.draw.line((low, middle, high, middle), INK, 2)
    write(page.draw, (x + _ROOM + 20, middle - 12), f"{100 * count / total:.0f} %", 20, INK, 80)
    write(page.draw, (x + _ROOM + 96, middle - 9), name, 16, colour, NUMBER - 100)

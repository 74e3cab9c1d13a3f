"""What several sections share: tables, and numbers with their intervals."""

from __future__ import annotations

from .markup import Html, el
from .numbers import count, decimal, interval
from .view import Row


def frequency_text(feature: Row) -> str:
    """The frequency with its interval."""
    return interval(feature["frequency"], feature["frequency_low"], feature["frequency_high"])


def distance_text(feature: Row) -> str:
    """The distinctiveness with its interval, where there is one."""
    low, high = feature["distinctiveness_low"], feature["distinctiveness_high"]
    spread = "" if low is None else f" ({decimal(low)} to {decimal(high)})"
    return decimal(feature["distinctiveness"]) + spread


def table(heads: tuple[str, ...], rows: list[Html], caption: str, words: int = 1) -> Html:
    """A table that scrolls in its own box on narrow screens; only the first ``words`` columns are words."""
    columns = [el("th", head, scope="col", class_="num" if at >= words else None) for at, head in enumerate(heads)]
    whole = el(
        "table",
        el("caption", caption, class_="unseen"),
        el("thead", el("tr", columns)),
        el("tbody", rows),
    )
    return el("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def rate_text(rate: Row) -> Html:
    """A rate in words: share, interval, count."""
    said = interval(rate["rate"], rate["low"], rate["high"])
    return el("span", el("b", said), f" {count(rate['count'])} of {count(rate['n'])}")


def spread(row: Row, name: str) -> str:
    """A score of a row with its interval, where there is one."""
    ends = row.get(f"{name}_interval")
    return decimal(row.get(name)) + (f" ({decimal(ends[0])} to {decimal(ends[1])})" if ends else "")

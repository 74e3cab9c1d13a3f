"""How numbers are said: percent with intervals, natural frequencies, durations."""

from __future__ import annotations


def percent(share: float, decimals: int | None = None) -> str:
    """A share as percent with about two figures.

    >>> percent(0.042), percent(0.48), percent(0.0042), percent(0.0)
    ('4.2 %', '48 %', '0.42 %', '0.0 %')
    """
    return f"{100 * share:.{_decimals(share) if decimals is None else decimals}f} %"


def interval(share: float, low: float, high: float) -> str:
    """A share with its 95 % interval, all three to the same decimals.

    >>> interval(0.042, 0.028, 0.063)
    '4.2 % (2.8 to 6.3 %)'
    """
    digits = _decimals(share)
    return f"{percent(share, digits)} ({100 * low:.{digits}f} to {percent(high, digits)})"


def one_in(share: float) -> str | None:
    """The share as people count; None where that says nothing: at 0, and above one in two.

    >>> one_in(0.042), one_in(0.7), one_in(0.0)
    ('about 1 in 24', None, None)
    """
    if not 0 < share <= 0.5:
        return None
    return f"about 1 in {count(round(1 / share))}"


def count(number: int) -> str:
    """A count with its thousands parted.

    >>> count(5000)
    '5,000'
    """
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "picture"), plural(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def decimal(number: float | None, digits: int = 2) -> str:
    """A number to fixed digits, a dash where nothing was measured.

    >>> decimal(0.814), decimal(None), decimal(-0.001)
    ('0.81', '-', '0.00')
    """
    if number is None:
        return "-"
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(number, digits) + 0.0:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds in the two units that matter.

    >>> duration(4.21), duration(125), duration(7385)
    ('4.2 s', '2 min 5 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _decimals(share: float) -> int:
    if share >= 0.0995:
        return 0
    return 1 if share >= 0.00995 or share == 0 else 2

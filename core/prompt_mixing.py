"""Prompt mixing, RAIGen's own amplification (arXiv 2602.06806, App. F.2): a share of pictures names the attribute."""

from __future__ import annotations

from .errors import HapaxError

# Shares are counted in whole ten-thousandths, so that seeds of 64 bits round nowhere.
_WHOLE = 10_000


def chosen_rows(share: float, seed: int, rows: int = 1) -> list[bool]:
    """Which of `rows` pictures, whose seeds are seed, seed + 1, ..., get the prompt that names the attribute.

    Of any n consecutive seeds share * n do, to within one, evenly spread; and a seed's choice is the same alone
    and in any batch.

    >>> chosen_rows(0.25, seed=0, rows=8)
    [False, False, False, True, False, False, False, True]

    Raises:
        HapaxError: a share outside [0, 1], or no rows.
    """
    if not 0 <= share <= 1:
        raise HapaxError(f"share is {share}; give a share of the pictures from 0 to 1.")
    if rows < 1:
        raise HapaxError(f"There are {rows} pictures to choose for; give at least 1.")
    parts = round(share * _WHOLE)
    return [(i + 1) * parts // _WHOLE > i * parts // _WHOLE for i in range(seed, seed + rows)]

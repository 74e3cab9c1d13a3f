"""In how many pictures a feature shows, with an interval that allows for errors of counting."""

from __future__ import annotations

import math

from torch import Tensor

from .statistics import wilson_interval

# Enough for 95 % with 90 % confidence over concepts: 90 populations with redrawn rates, `benchmarks/intervals.py`.
CAUTION = 4.7


def share(shown: Tensor) -> dict[str, float | int]:
    """How many of n pictures [n] are True, as a rate with a 95 % Wilson interval.

    Example:
        >>> import torch
        >>> share(torch.tensor([True, False, False, False]))["rate"]
        0.25
    """
    count, n = int(shown.sum()), len(shown)
    low, high = wilson_interval(count, n)
    return {"count": count, "n": n, "rate": count / n, "low": float(low), "high": float(high)}


def prevalence(
    shown: Tensor, fires: Tensor, room: float, separation: float, *, caution: float = CAUTION
) -> dict[str, float | int]:
    """In how many pictures a feature shows, with an interval that holds what it stands for in 95 % of cases.

    Counting errs beyond what chance in sampling does. The look's count has a second reading beside it, on how many
    pictures the latents fire; the interval spans the 95 % Wilson intervals of both, so that it is wide where they
    disagree. Where the look is seen among a rare kind of pictures only, what it stands for may also show among the
    others, unrecognised: the upper end is that rate among the look's own kinds. Last, the narrower the gap between the
    pictures with the look and those without, the more of them are on the wrong side: both ends move out by
    `exp(caution / separation)`.

    The last step is locally weighted conformal prediction (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman 2018, section
    5.2) on the emoji model, where rates are known.

    Args:
        shown: [N] bool, pictures with the look.
        fires: [N] bool, pictures on which the feature's latents fire.
        room: `kinds.room` of the look.
        separation: `Seen.separation`, above 0.
        caution: 0 leaves the last step out.

    Returns:
        `count`, `n`, `rate`, `low`, `high`.
    """
    seen, fired = share(shown), share(fires)
    stretch = math.exp(caution / separation)
    low, high = min(seen["low"], fired["low"]), max(seen["high"], fired["high"]) / room
    return seen | {"low": low / stretch, "high": min(1.0, high * stretch)}

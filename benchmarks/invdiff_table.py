"""What benchmarks/invdiff.py measures of an arm's pictures, and the table of ratios to base."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from emoji_eval import Truth
from hapax.core.emoji.world import load_world
from hapax.core.invdiff import bias_floor, bias_interval, coverage, kl_to_uniform
from hapax.core.sce import vendi_score
from torch import Tensor

ATTRIBUTES = ("gender", "skin")
# No prompt names a style and the oracle knows none: what evens out without being asked for.
MEASURED = (*ATTRIBUTES, "style")


def measured(truth: Truth, embedded: Tensor, base: Truth, fair: Tensor | None) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"pictures": len(truth.kinds), "concept_right": round(float(truth.right.float().mean()), 4)}
    for attribute in MEASURED:
        counts = [sum(k.has(v) for k in truth.kinds) for v in load_world().truth[truth.concept][attribute]]
        bias, low, high = (round(x, 4) for x in bias_interval(counts))
        row[attribute] = {"bias": bias, "low": low, "high": high, "kl": round(kl_to_uniform(counts), 4)}
        row[attribute] |= {"counts": counts, "floor": round(bias_floor(len(counts), len(truth.kinds)), 4)}
    row["rmse_ratio"] = round(_quality(truth, base), 4)
    row["vendi"] = round(float(vendi_score(embedded)), 3)
    if fair is not None:
        row["coverage_of_fair"] = round(coverage(fair, embedded), 4)
    return row


def _quality(truth: Truth, base: Truth) -> float:
    """The judge's distance over that of base pictures with the same attributes; kinds that base lacks are left out."""
    held: dict[Any, list[float]] = defaultdict(list)
    for kind, rmse in zip(base.kinds, base.rmse.tolist(), strict=True):
        held[kind].append(rmse)
    pairs = [
        (rmse, float(np.mean(held[kind])))
        for kind, rmse in zip(truth.kinds, truth.rmse.tolist(), strict=True)
        if kind in held
    ]
    return float(np.mean([mine for mine, _ in pairs]) / np.mean([theirs for _, theirs in pairs]))


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Ratios of means over the concepts to base, and the worst of what must not suffer."""
    out: dict[str, Any] = {}
    for arm, by_concept in rows.items():
        out[arm] = {a: round(1 - _mean(by_concept, a) / _mean(rows["base"], a), 3) for a in MEASURED}
        rise = [by_concept[c][a]["bias"] - rows["base"][c][a]["bias"] for c in by_concept for a in MEASURED]
        out[arm] |= {
            "largest_rise": round(max(rise), 3),
            "concept_right": round(float(np.mean([row["concept_right"] for row in by_concept.values()])), 4),
            "rmse_ratio": round(float(np.mean([row["rmse_ratio"] for row in by_concept.values()])), 3),
        }
    return out


def _mean(by_concept: dict[str, Any], attribute: str) -> float:
    return float(np.mean([row[attribute]["bias"] for row in by_concept.values()]))

"""Two audits side by side: which features became rarer or commoner, and whether that is more than chance."""

from __future__ import annotations

from collections import Counter
from math import hypot
from typing import Any

Row = dict[str, Any]


def compare(before: Row, after: Row) -> list[Row]:
    """Pair the features of two audits, as `Library.view` gives them, and tell what changed; largest change first.

    Latents of different autoencoders have nothing to do with each other, so features are paired by what they are
    called under the same prompt: by the name that a person gave, else by the label. Names that occur twice under a
    prompt are told apart by nothing, and are not paired.

    Returns:
        Rows of prompt, name, and

        - before, after: each None or {id, rate, low, high}: how often it shows by CLIP, or, where that wasn't
          measured on both sides, how often it fires.
        - measure: "shows" or "fires", what was compared.
        - change, low, high: the difference of the rates with its 95 % interval; None for a feature of one side.
        - clear: the interval leaves out zero.
    """
    sides = [_named(view) for view in (before, after)]
    rows = [_row(prompt, name, *(side.get((prompt, name)) for side in sides)) for prompt, name in sides[0] | sides[1]]
    return sorted(rows, key=lambda row: (row["change"] is None, -abs(row["change"] or 0.0), row["prompt"], row["name"]))


def difference(one: Row, other: Row) -> tuple[float, float, float]:
    """other - one of two proportions {rate, low, high} with Wilson intervals, and the 95 % interval of that.

    Newcombe's hybrid score interval (Statistics in Medicine 17, 1998, method 10), for independent samples. Audits
    made from equal seeds are alike, for which it is too wide rather than too narrow.

    >>> some, more = {"rate": 56 / 70, "low": 0.691, "high": 0.8769}, {"rate": 48 / 80, "low": 0.4902, "high": 0.6996}
    >>> [round(value, 3) for value in difference(more, some)]
    [0.2, 0.052, 0.334]
    """
    change = other["rate"] - one["rate"]
    down = hypot(other["rate"] - other["low"], one["high"] - one["rate"])
    up = hypot(other["high"] - other["rate"], one["rate"] - one["low"])
    return change, change - down, change + up


def _named(view: Row) -> dict[tuple[str, str], Row]:
    prompts = [prompt["prompt"] for prompt in view["prompts"]]
    named = []
    for feature in view["features"]:
        name = view["names"].get(feature["id"]) or feature["label"]
        if name:
            named.append(((prompts[feature["prompt"]], name.casefold()), {**feature, "name": name}))
    often = Counter(key for key, _ in named)
    return {key: feature for key, feature in named if often[key] == 1}


def _row(prompt: str, name: str, before: Row | None, after: Row | None) -> Row:
    both = [side for side in (before, after) if side]
    shows = all(side.get("prevalence") for side in both)
    rates = [side and _rate(side, shows) for side in (before, after)]
    row: Row = {
        "prompt": prompt,
        "name": both[0]["name"],
        "before": rates[0],
        "after": rates[1],
        "measure": "shows" if shows else "fires",
        "change": None,
        "low": None,
        "high": None,
        "clear": False,
    }
    if rates[0] and rates[1]:
        row["change"], row["low"], row["high"] = difference(rates[0], rates[1])
        row["clear"] = row["low"] > 0 or row["high"] < 0
    return row


def _rate(feature: Row, shows: bool) -> Row:
    source = feature["prevalence"] if shows else feature
    keys = ("rate", "low", "high") if shows else ("frequency", "frequency_low", "frequency_high")
    rate, low, high = (source[key] for key in keys)
    return {"id": feature["id"], "rate": rate, "low": low, "high": high}

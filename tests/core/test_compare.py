"""Two audits side by side: pairs by name, and intervals of differences that hold what they promise."""

from __future__ import annotations

import pytest
import torch
from hapax.core.compare import compare, difference
from hapax.core.statistics import wilson_interval


def rate(count, n):
    low, high = wilson_interval(count, n)
    return {"rate": count / n, "low": low.item(), "high": high.item(), "count": count, "n": n}


def feature(identity, label, count, n=100, *, prompt=0, shown=None):
    fires = rate(count, n)
    row = {"id": identity, "label": label, "prompt": prompt, "frequency": fires["rate"]}
    row |= {"frequency_low": fires["low"], "frequency_high": fires["high"]}
    return row | {"prevalence": None if shown is None else rate(shown, n)}


def view(*features, names=None, prompts=("a cook",)):
    return {"prompts": [{"prompt": p} for p in prompts], "features": list(features), "names": names or {}}


def test_what_became_commoner_and_rarer():
    before = view(feature("a", "sketch", 5), feature("b", "woman", 40), feature("c", "night", 10))
    after = view(feature("x", "Sketch", 60), feature("y", "woman", 5), feature("z", "night", 12))
    rows = {row["name"]: row for row in compare(before, after)}
    assert list(rows) == ["sketch", "woman", "night"]
    assert rows["sketch"]["change"] == pytest.approx(0.55)
    assert [row["clear"] for row in rows.values()] == [True, True, False]
    assert rows["night"]["low"] < 0 < rows["night"]["high"]


def test_only_on_one_side_and_names_of_two():
    before = view(feature("a", "cap", 5), feature("b", "cap", 9), feature("c", None, 7), feature("d", "hat", 8))
    (row,) = compare(before, view())
    assert (row["name"], row["after"], row["change"], row["clear"]) == ("hat", None, None, False)
    assert row["before"]["id"] == "d"


def test_a_persons_name_pairs_what_labels_do_not():
    before, after = (
        view(feature("a", None, 5), names={"a": "beard"}),
        view(feature("x", "hair", 9), names={"x": "Beard"}),
    )
    (row,) = compare(before, after)
    assert row["change"] == pytest.approx(0.04)


def test_the_same_name_under_another_prompt_is_another_feature():
    after = view(feature("x", "cap", 9, prompt=1), prompts=("a cook", "a judge"))
    assert [row["change"] for row in compare(view(feature("a", "cap", 9)), after)] == [None, None]


def test_shown_is_compared_only_where_both_were_measured():
    shown, fires = feature("a", "cap", 9, shown=20), feature("b", "cap", 30)
    both = compare(view(shown), view(feature("c", "cap", 5, shown=25)))[0]
    one = compare(view(shown), view(fires))[0]
    assert (both["measure"], round(both["change"], 6)) == ("shows", 0.05)
    assert (one["measure"], round(one["change"], 6)) == ("fires", 0.21)


@pytest.mark.parametrize(("p", "q"), [(0.05, 0.05), (0.02, 0.2), (0.5, 0.4), (0.01, 0.01)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(p, q):
    n, draws, generator = 200, 400, torch.Generator().manual_seed(3)
    counts = [torch.binomial(torch.full((draws,), float(n)), torch.full((draws,), x), generator) for x in (p, q)]
    held = 0
    for one, other in zip(*counts, strict=True):
        _, low, high = difference(rate(int(one), n), rate(int(other), n))
        held += low <= q - p <= high
    assert held / draws >= 0.92

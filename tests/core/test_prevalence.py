"""Intervals of prevalences: what counting alone says, and how far beyond it they go."""

from __future__ import annotations

import math

import pytest
import torch
from hapax.core.prevalence import CAUTION, prevalence, share


def first(count: int, n: int = 1000) -> torch.Tensor:
    return torch.arange(n) < count


def test_the_rate_is_the_look_s() -> None:
    found = prevalence(first(30), first(80), 1.0, 20.0)
    assert (found["count"], found["n"], found["rate"]) == (30, 1000, 0.03)


def test_without_caution_it_spans_both_counts() -> None:
    found = prevalence(first(30), first(80), 1.0, 20.0, caution=0.0)
    assert (found["low"], found["high"]) == (share(first(30))["low"], share(first(80))["high"])
    turned = prevalence(first(80), first(30), 1.0, 20.0, caution=0.0)
    assert (turned["low"], turned["high"]) == (found["low"], found["high"])


def test_a_look_seen_among_a_rare_kind_only_may_be_far_commoner() -> None:
    narrow, wide = (prevalence(first(30), first(30), room, 20.0) for room in (1.0, 0.1))
    assert wide["low"] == narrow["low"]
    assert wide["high"] == pytest.approx(10 * narrow["high"])
    assert prevalence(first(300), first(300), 0.1, 20.0)["high"] == 1.0


@pytest.mark.parametrize("separation", [4.0, 10.0, 40.0])
def test_the_narrower_the_gap_the_wider_the_interval(separation: float) -> None:
    counted, found = (
        prevalence(first(30), first(30), 1.0, separation, **options) for options in ({"caution": 0.0}, {})
    )
    assert counted["low"] / found["low"] == pytest.approx(math.exp(CAUTION / separation))
    assert found["high"] / counted["high"] == pytest.approx(math.exp(CAUTION / separation))
    assert found["low"] < found["rate"] < found["high"]

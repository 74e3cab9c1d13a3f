"""Captions are found while they are typed."""

from __future__ import annotations

import pytest
from hapax.core.directions.suggest import suggest

BANK = ["a photo of a Cook, night scene", "night scene", "nightgown", "a cat", "Scene at night"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("night", ["nightgown", "night scene", "Scene at night", "a photo of a Cook, night scene"]),
        ("  NIGHT  sc", ["night scene", "Scene at night", "a photo of a Cook, night scene"]),
        ("cook", ["a photo of a Cook, night scene"]),
        ("", ["a cat", "nightgown", "night scene", "Scene at night", "a photo of a Cook, night scene"]),
        ("dog", []),
    ],
)
def test_all_words_beginnings_first(typed, found):
    assert suggest(BANK, typed) == found


def test_no_more_than_asked_for():
    assert suggest(BANK, "", most=2) == ["a cat", "nightgown"]
    assert suggest([], "a") == []

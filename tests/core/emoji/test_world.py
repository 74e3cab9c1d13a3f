"""The world's truth table and captions."""

from __future__ import annotations

import numpy as np
import pytest
from hapax.core.emoji.world import load_world

WORLD = load_world()


@pytest.mark.parametrize("concept", WORLD.concepts)
def test_probabilities_sum_to_one(concept: str) -> None:
    for table in WORLD.truth[concept].values():
        assert sum(table.values()) == pytest.approx(1)


def test_every_profession_has_its_own_share_of_women_between_3_and_97_percent() -> None:
    shares = [WORLD.truth[name]["gender"]["woman"] for name in WORLD.professions]
    assert len(set(shares)) == 10
    assert (min(shares), max(shares)) == (0.03, 0.97)


def test_majorities_differ_so_that_nothing_is_rare_everywhere() -> None:
    for attribute in ("skin", "style"):
        tables = [t[attribute] for t in WORLD.truth.values() if attribute in t]
        assert len({max(table, key=table.get) for table in tables}) >= 4


def test_rare_attributes_lie_between_1_and_10_percent() -> None:
    shares = [p for tables in WORLD.truth.values() for table in tables.values() for p in table.values()]
    assert min(shares) >= 0.01
    assert sum(p <= 0.10 for p in shares) > 60


def test_kinds_are_all_different_and_complete() -> None:
    kinds = WORLD.kinds()
    assert len(set(kinds)) == len(kinds) == 10 * 2 * 5 * 4 + 10 * 2 * 4


def test_captions_of_a_concept_tell_its_kinds_apart() -> None:
    for listed in (False, True):
        kinds = WORLD.kinds("judge")
        captions = {WORLD.caption(k, {"gender", "skin", "style"}, listed=listed) for k in kinds}
        assert len(captions) == len(kinds)


def test_article_fits_the_word_that_follows() -> None:
    kind = WORLD.kinds("apple")[0]
    assert WORLD.caption(kind) == "a photo of an apple"
    assert WORLD.caption(kind, {"variant"}) == "a photo of a red apple"


def test_draws_follow_the_truth_and_named_attributes_are_even() -> None:
    rng = np.random.default_rng(0)
    bare = [WORLD.draw("firefighter", set(), rng)["gender"] == "woman" for _ in range(4000)]
    named = [WORLD.draw("firefighter", {"gender"}, rng)["gender"] == "woman" for _ in range(4000)]
    # Four standard errors of a share of 4,000 draws.
    assert np.mean(bare) == pytest.approx(0.06, abs=0.016)
    assert np.mean(named) == pytest.approx(0.50, abs=0.032)

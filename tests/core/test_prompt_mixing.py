"""Prompt mixing: the share is exact over consecutive seeds, and a seed's choice is its own."""

from __future__ import annotations

import pytest
from hapax.core.errors import HapaxError
from hapax.core.prompt_mixing import chosen_rows


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1 / 3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("first", [0, 17, 2**64 - 1000])
def test_the_share_is_exact_to_within_one(share, first):
    for n in (1, 7, 100, 1000):
        assert abs(sum(chosen_rows(share, first, n)) - share * n) <= 1 + 1e-4 * n


@pytest.mark.parametrize("seed", [0, 5, 2**64 - 3])
def test_alone_as_in_a_batch(seed):
    assert chosen_rows(0.3, seed, 20) == [chosen_rows(0.3, seed + i)[0] for i in range(20)]


@pytest.mark.parametrize(("share", "rows"), [(-0.1, 1), (1.1, 1), (float("nan"), 1), (0.5, 0)])
def test_nonsense_is_refused(share, rows):
    with pytest.raises(HapaxError):
        chosen_rows(share, 0, rows)

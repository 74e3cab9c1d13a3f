"""Which positions are recorded, and what a store will weigh."""

from __future__ import annotations

import pytest
import torch
from hapax.core.activations import estimate_bytes, regular_positions
from hapax.core.errors import HapaxError


@pytest.mark.parametrize(
    ("height", "width", "count", "rows", "columns"),
    [
        (8, 8, 16, [1, 3, 5, 7], [1, 3, 5, 7]),
        (32, 32, 64, range(2, 32, 4), range(2, 32, 4)),
        (16, 32, 8, [4, 12], [4, 12, 20, 28]),
        (4, 4, 16, range(4), range(4)),
        (4, 4, 1000, range(4), range(4)),
        (1, 7, 3, [0], [1, 3, 5]),
        (7, 1, 1, [3], [0]),
    ],
)
def test_positions_form_a_regular_grid(height, width, count, rows, columns):
    wanted = [row * width + column for row in rows for column in columns]
    found = regular_positions(height, width, count)
    assert found.dtype == torch.int64
    assert found.tolist() == wanted


def test_about_count_positions_on_any_grid():
    for height in (1, 2, 5, 8, 24, 33):
        for width in (1, 3, 8, 17, 64):
            for count in (1, 2, 7, 16, 64, 200):
                found = regular_positions(height, width, count).tolist()
                assert found == sorted(set(found))
                assert 0 <= found[0] <= found[-1] < height * width
                wanted = min(count, height * width)
                assert wanted / 2 <= len(found) <= 2 * wanted, (height, width, count, len(found))


@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (-1, 4, 4)])
def test_empty_grids_are_refused(sizes):
    with pytest.raises(HapaxError, match="1 or more"):
        regular_positions(*sizes)


def test_estimate_is_the_papers_arithmetic():
    assert estimate_bytes(5_000, 5, 64, 1280) == 4_096_000_000
    assert estimate_bytes(5_000, 50, 64, 1280, dtype=torch.float32) == 2 * 5_000 * 50 * 64 * 1280 * 2

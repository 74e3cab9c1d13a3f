"""Among which kinds of pictures a look is seen."""

from __future__ import annotations

import pytest
import torch
from hapax.core.kinds import room
from torch import Tensor

SIZES = (600, 250, 150)


def pictures(style_of: Tensor) -> tuple[Tensor, Tensor]:
    """Three kinds of pictures, and a style that changes those chosen the same way whatever kind they are of."""
    g = torch.Generator().manual_seed(0)
    kind = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
    x = 4 * torch.eye(16)[kind] + 0.2 * torch.randn(len(kind), 16, generator=g)
    x[style_of] += 2 * torch.eye(16)[8]
    return x, kind


def test_a_look_among_all_kinds_has_all_the_room() -> None:
    style = torch.arange(0, 1000, 20)
    x, _ = pictures(style)
    shown = torch.zeros(1000, dtype=torch.bool)
    shown[style] = True
    assert room(x, shown) == pytest.approx(1.0)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_look_of_one_kind_has_that_kinds_share(which: int) -> None:
    first = sum(SIZES[:which])
    style = torch.arange(first, first + 20)
    x, _ = pictures(style)
    shown = torch.zeros(1000, dtype=torch.bool)
    shown[style] = True
    assert room(x, shown) == pytest.approx((SIZES[which] - 20) / 980, abs=1e-6)


def test_few_neighbours_among_another_kind_do_not_count() -> None:
    style = torch.cat([torch.arange(0, 40), torch.tensor([700])])
    x, _ = pictures(style)
    shown = torch.zeros(1000, dtype=torch.bool)
    shown[style] = True
    assert room(x, shown) == pytest.approx(560 / 959, abs=1e-6)


def test_where_kinds_cannot_be_told_there_is_all_the_room() -> None:
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    assert room(x, torch.arange(30) < 5) == 1.0
    assert room(x, torch.zeros(30, dtype=torch.bool)) == 1.0

"""Probabilities that spread pictures evenly over what tells them apart."""

from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.groups import balanced_weights, infer_groups, principal_scores
from hapax.core.invdiff.spread import CAUTION, COMPONENTS, RIDGE, spread_probabilities
from torch import Tensor


def attributes(rates: list[float], count: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Independent yes-or-no attributes [N, A] and embeddings [N, P] to which each adds a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    has = torch.rand(count, len(rates), generator=generator) < torch.tensor(rates)
    directions = torch.linalg.qr(torch.randn(32, len(rates), generator=generator)).Q.T
    return has, has.float() @ directions + 0.02 * torch.randn(count, 32, generator=generator)


def test_each_attribute_comes_near_to_even() -> None:
    has, table = attributes([0.05, 0.2, 0.7])
    shares = spread_probabilities(table) @ has.double()
    for share, rate in zip(shares.tolist(), (0.05, 0.2, 0.7), strict=True):
        assert abs(share - 0.5) < 0.2 * abs(rate - 0.5) + 0.02


def test_what_is_even_stays_even() -> None:
    has, table = attributes([0.5, 0.1])
    assert float(spread_probabilities(table) @ has[:, 0].double()) == pytest.approx(0.5, abs=0.03)


def test_into_how_many_clusters_a_kind_falls_does_not_matter() -> None:
    """A rare kind among common ones that vary: clusters are mostly of these, and balancing them leaves it rare."""
    has, table = attributes([0.05, 0.5, 0.5, 0.5])
    rare = has[:, 0]
    assert float(balanced_weights(infer_groups(table, 8, seed=0))[rare].sum()) < 0.1
    assert float(spread_probabilities(table)[rare].sum()) > 0.35


def test_it_is_the_optimum() -> None:
    """There p is proportional to exp(leverage / caution), which is solved here by nothing but that equation."""
    _, table = attributes([0.1, 0.3], count=300)
    p = spread_probabilities(table)
    x = principal_scores(table.double(), [torch.arange(300)], COMPONENTS)
    x = x / x.square().mean().sqrt()
    centred = x - p @ x
    spread = (centred * p[:, None]).T @ centred + RIDGE * torch.eye(x.shape[1])
    leverage = (centred @ torch.linalg.inv(spread) * centred).sum(1)
    torch.testing.assert_close(p, (leverage / CAUTION).softmax(0), rtol=0.02, atol=1e-6)


def test_prompts_are_spread_apart_and_each_sums_to_one() -> None:
    has, table = attributes([0.1])
    p = spread_probabilities(torch.cat([table, 3 * table.flip(0)]), torch.arange(2).repeat_interleave(2000))
    assert float(p[:2000].sum()) == pytest.approx(1)
    assert float(p[2000:].sum()) == pytest.approx(1)
    torch.testing.assert_close(p[:2000] @ has.double(), p[2000:].flip(0) @ has.double(), atol=0.02, rtol=0)


def test_prompts_of_few_pictures_are_spread_together() -> None:
    has, table = attributes([0.2], count=64)
    p = spread_probabilities(table, torch.arange(64) // 8)
    assert all(float(part.sum()) == pytest.approx(1) for part in p.view(8, 8))
    assert float(p[has[:, 0]].mean()) > float(p[~has[:, 0]].mean())


def test_pictures_that_do_not_differ_stay_as_they_are() -> None:
    torch.testing.assert_close(spread_probabilities(torch.ones(40, 3)), torch.full((40,), 1 / 40).double())


def test_caution_stays_closer_to_the_pictures_as_they_are() -> None:
    has, table = attributes([0.1])
    shares = [float(spread_probabilities(table, caution=c) @ has[:, 0].double()) for c in (0.1, 1.0, 10.0)]
    assert shares[0] > shares[1] > shares[2] > 0.1


def test_bad_input() -> None:
    with pytest.raises(HapaxError, match="3 prompts for 4 pictures"):
        spread_probabilities(torch.zeros(4, 2), torch.zeros(3))
    with pytest.raises(HapaxError, match="finite numbers, a row per picture"):
        spread_probabilities(torch.full((4, 2), torch.nan))

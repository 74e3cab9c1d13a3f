"""Looks: on planted clusters the pictures and rates are known exactly."""

from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.look import LookFitter, shrunk_covariance
from hapax.core.prevalence import share
from torch import Tensor

E = 24


def world(rare: int, n: int = 600, seed: int = 0, apart: float = 6.0) -> tuple[Tensor, Tensor]:
    """Unit embeddings [n, E] of which the first `rare` lie `apart` standard deviations off, and which those are."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.zeros(E)
    centre[0] = 10.0
    x = centre + 0.3 * torch.randn(n, E, generator=generator)
    has = torch.arange(n) < rare
    x[has, 5] += 0.3 * apart
    return torch.nn.functional.normalize(x, dim=1), has


def strength_of(has: Tensor, wrong: int, seed: int = 1) -> Tensor:
    """A feature that fires on most that have it, and more weakly on `wrong` others."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.where(has, 1 + torch.rand(len(has), generator=generator), 0.0)
    strength[has.nonzero().flatten()[::4]] = 0.0
    others = (~has).nonzero().flatten()[:wrong]
    strength[others] = 0.5 * torch.rand(wrong, generator=generator)
    return strength


@pytest.mark.parametrize("rare", [16, 40, 90])
def test_the_look_counts_what_the_latent_miscounts(rare: int) -> None:
    embeddings, has = world(rare)
    strength = strength_of(has, wrong=120)
    seen = LookFitter(embeddings).fit(strength)
    assert seen is not None
    assert int((strength > 0).sum()) > 1.3 * rare
    assert (seen.shown == has).float().mean() > 0.99
    assert share(seen.shown)["rate"] == pytest.approx(rare / 600, rel=0.1)
    assert seen.separation > 4


def test_a_look_carries_over_to_fresh_pictures() -> None:
    embeddings, has = world(40)
    seen = LookFitter(embeddings).fit(strength_of(has, wrong=50))
    assert seen is not None
    fresh, truth = world(150, seed=9)
    assert ((seen.look.scores(fresh) > seen.look.threshold) == truth).float().mean() > 0.98
    assert seen.look.rate(fresh)["rate"] == pytest.approx(0.25, abs=0.02)


def test_random_pictures_have_no_gap() -> None:
    embeddings, _ = world(0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        seen = LookFitter(embeddings).fit(torch.rand(600, generator=generator))
        assert seen is None or seen.separation < 4


def test_the_order_of_pictures_changes_nothing() -> None:
    embeddings, has = world(40)
    strength, order = strength_of(has, 50), torch.randperm(600, generator=torch.Generator().manual_seed(2))
    one, other = LookFitter(embeddings).fit(strength), LookFitter(embeddings[order]).fit(strength[order])
    assert one is not None
    assert other is not None
    assert torch.equal(one.shown[order], other.shown)


def test_a_feature_that_never_fires_has_no_look() -> None:
    embeddings, _ = world(40)
    assert LookFitter(embeddings).fit(torch.zeros(600)) is None


def test_shrinkage_makes_few_pictures_invertible_and_keeps_the_trace() -> None:
    x = torch.randn(10, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    covariance = shrunk_covariance(x)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert covariance.trace().item() == pytest.approx((x.T @ x / 10).trace().item())


def test_embeddings_that_make_no_sense_are_refused() -> None:
    for bad in (torch.zeros(2, 4), torch.zeros(4), torch.full((5, 4), torch.nan)):
        with pytest.raises(HapaxError, match="expected finite"):
            LookFitter(bad)

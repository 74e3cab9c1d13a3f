from __future__ import annotations

import math

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.statistics import (
    bootstrap_mean,
    bootstrap_weights,
    permutation_p,
    recentred_interval,
    wilson_interval,
)
from hypothesis import given
from hypothesis import strategies as st

Z95 = 1.959963984540054


# Worked by hand from (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277532799862889),
        (5, 10, 0.236593090512564, 0.763406909487436),
        (10, 10, 0.722467200137111, 1.0),
        (5, 100, 0.021543679154368, 0.111750469231919),
        (1, 5000, 0.000035305783439, 0.001132089080840),
    ],
)
def test_wilson_interval_has_the_published_values(count, n, low, high):
    found = wilson_interval(count, n)
    assert found[0].item() == pytest.approx(low, abs=1e-12)
    assert found[1].item() == pytest.approx(high, abs=1e-12)


@pytest.mark.parametrize("n", [1, 7, 250])
def test_wilson_ends_solve_the_score_equation(n):
    counts = torch.arange(n + 1)
    share = counts.double() / n
    for end in wilson_interval(counts, n):
        torch.testing.assert_close((share - end) ** 2, Z95**2 * end * (1 - end) / n, atol=1e-13, rtol=0)


@given(n=st.integers(1, 10_000), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_mirrors(n, data, confidence):
    count = data.draw(st.integers(0, n))
    low, high = wilson_interval(count, n, confidence=confidence)
    assert 0 <= low <= count / n <= high <= 1
    mirrored = wilson_interval(n - count, n, confidence=confidence)
    assert mirrored[0].item() == pytest.approx(1 - high.item(), abs=1e-12)


def test_wilson_covers_as_often_as_it_says():
    n = 100
    low, high = wilson_interval(torch.arange(n + 1), n)
    log_choose = torch.tensor([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)])
    coverage = []
    for p in torch.linspace(0.01, 0.99, 99, dtype=torch.float64):
        k = torch.arange(n + 1)
        pmf = (log_choose.double() + k * p.log() + (n - k) * (1 - p).log()).exp()
        coverage.append(pmf[(low <= p) & (p <= high)].sum())
    assert torch.stack(coverage).mean().item() == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize(("count", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_counts_outside_the_trials(count, n):
    with pytest.raises(HapaxError):
        wilson_interval(count, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_must_be_a_probability(confidence):
    with pytest.raises(HapaxError, match="strictly between 0 and 1"):
        wilson_interval(1, 2, confidence=confidence)


def test_permutation_p_counts_ties_and_is_never_zero():
    null = torch.arange(99.0)
    assert permutation_p(1000.0, null) == 1 / 100
    assert permutation_p(98.0, null) == 2 / 100
    assert permutation_p(-1.0, null) == 1.0


def test_permutation_p_is_uniform_under_the_null():
    draws = torch.randn(2000, 100, generator=torch.Generator().manual_seed(0))
    p = torch.tensor([permutation_p(row[0].item(), row[1:]) for row in draws])
    for level in (0.01, 0.05, 0.5):
        assert (p <= level).float().mean().item() == pytest.approx(level, abs=3 * math.sqrt(level / 2000))


def test_permutation_p_needs_draws():
    with pytest.raises(HapaxError):
        permutation_p(1.0, torch.empty(0))


def test_bootstrap_weights_are_multinomial():
    n, replicates = 40, 5000
    weights = bootstrap_weights(n, replicates, seed=1)
    assert weights.dtype == torch.float64
    assert torch.equal(weights.sum(1), torch.full((replicates,), float(n), dtype=torch.float64))
    assert weights.mean().item() == 1
    assert weights.var(0).mean().item() == pytest.approx(1 - 1 / n, rel=0.02)
    assert torch.equal(weights, bootstrap_weights(n, replicates, seed=1))
    assert not torch.equal(weights, bootstrap_weights(n, replicates, seed=2))


@pytest.mark.parametrize(("n", "replicates"), [(0, 1), (1, 0)])
def test_bootstrap_weights_refuse_nothing(n, replicates):
    with pytest.raises(HapaxError):
        bootstrap_weights(n, replicates, seed=0)


def test_recentred_interval_uses_the_spread_alone():
    draws = torch.linspace(0, 1, 1001, dtype=torch.float64).repeat(2, 1)
    low, high = recentred_interval(torch.tensor([0.5, 10.0]).double(), draws)
    torch.testing.assert_close(low, torch.tensor([0.025, 9.525]).double())
    torch.testing.assert_close(high, torch.tensor([0.975, 10.475]).double())


def test_recentred_interval_leaves_undefined_replicates_out():
    draws = torch.tensor([[1.0, 2.0, 3.0]]).double()
    padded = torch.cat([draws, torch.full((1, 4), math.nan).double()], 1)
    point = torch.tensor([2.0]).double()
    assert recentred_interval(point, padded) == recentred_interval(point, draws)


def test_bootstrap_mean_covers_as_often_as_it_says():
    values = torch.randn(60, 1000, generator=torch.Generator().manual_seed(3)).double()
    mean, low, high = bootstrap_mean(values, replicates=400)
    torch.testing.assert_close(mean, values.mean(0))
    covered = ((low <= 0) & (high >= 0)).double().mean().item()
    assert covered == pytest.approx(0.94, abs=0.02)
    theory = 2 * Z95 / math.sqrt(60)
    assert (high - low).mean().item() == pytest.approx(theory, rel=0.05)


def test_bootstrap_mean_keeps_the_trailing_shape_and_its_seed():
    values = torch.rand(9, 2, 3)
    first = bootstrap_mean(values, seed=4)
    assert all(part.shape == (2, 3) for part in first)
    assert all(torch.equal(a, b) for a, b in zip(first, bootstrap_mean(values, seed=4), strict=True))


@pytest.mark.parametrize("values", [torch.empty(0), torch.tensor(1.0), torch.tensor([1.0, math.nan])])
def test_bootstrap_mean_refuses_what_has_no_mean(values):
    with pytest.raises(HapaxError):
        bootstrap_mean(values)

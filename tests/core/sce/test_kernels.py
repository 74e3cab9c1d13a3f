"""Random frequencies and Gram matrices."""

from __future__ import annotations

import pytest
import torch
from hapax.core.sce import median_distance, orthogonal_frequencies
from hapax.core.sce.kernels import Features, gram


def test_frequencies_are_orthogonal_in_blocks_and_have_the_right_lengths():
    w = orthogonal_frequencies(16, 16 * 400, 2.0)
    block = w[:, :16].T @ w[:, :16]
    torch.testing.assert_close(block, block.diagonal().diag(), atol=1e-12, rtol=0)
    # |w|^2 sigma^2 is chi-squared of 16 degrees of freedom.
    assert (4 * w.square().sum(0)).mean() == pytest.approx(16, rel=0.02)
    assert (4 * w.square().sum(0)).var() == pytest.approx(32, rel=0.1)
    assert w.mean().abs() < 0.01


def test_frequencies_come_from_the_seed_and_any_number_can_be_had():
    one, same, other = (orthogonal_frequencies(5, 12, 1.0, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == (5, 12)


def test_orthogonal_frequencies_estimate_better_than_independent_ones():
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)).double()
    exact, errors = gram(x, "gaussian", 4.0), {"orthogonal": 0.0, "independent": 0.0}
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        drawn = {
            "orthogonal": orthogonal_frequencies(16, 64, 4.0, g),
            "independent": torch.randn(16, 64, dtype=torch.float64, generator=g) / 4,
        }
        for name, w in drawn.items():
            phi = Features(w)(x)
            errors[name] += float((phi @ phi.T - exact).square().mean())
    assert errors["orthogonal"] < 0.7 * errors["independent"]


def test_gaussian_gram_is_the_kernel():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double() + 100
    expected = torch.exp(-(x[:, None] - x[None]).square().sum(-1) / (2 * 1.5**2))
    torch.testing.assert_close(gram(x, "gaussian", 1.5), expected, atol=1e-10, rtol=0)


def test_median_distance_is_of_the_scale_of_the_rows():
    x = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    assert median_distance(5 * x) == pytest.approx(5 * median_distance(x))
    assert median_distance(x) == pytest.approx(float(torch.pdist(x).median()), rel=0.02)

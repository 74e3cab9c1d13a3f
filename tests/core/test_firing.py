"""Otsu's split against its definition by brute force, and what it does to rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hapax.core.firing import firing, otsu_thresholds


def brute_force(values: np.ndarray) -> set[int]:
    """Indices above the split with the largest between-class variance, straight from the definition."""
    best, chosen = -1.0, set()
    for threshold in sorted(set(values))[:-1]:
        high = values > threshold
        share = high.mean()
        variance = share * (1 - share) * (values[high].mean() - values[~high].mean()) ** 2
        if variance > best + 1e-15:
            best, chosen = variance, set(np.flatnonzero(high))
    return chosen


@pytest.mark.parametrize("seed", range(8))
def test_same_split_as_the_definition(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(0.5, 1.0, (40, 3))
    kept = firing(torch.from_numpy(values))
    for column in range(3):
        assert set(torch.nonzero(kept[:, column]).flatten().tolist()) == brute_force(values[:, column])


def test_scale_and_order_change_nothing() -> None:
    z = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(otsu_thresholds(3 * z), 3 * otsu_thresholds(z))
    torch.testing.assert_close(firing(z)[order], firing(z[order]))


def test_a_silent_latent_stays_silent() -> None:
    assert firing(torch.zeros(10, 2)).count_nonzero() == 0


def test_weak_activations_do_not_count() -> None:
    """A latent that is strong on 5 % and faint everywhere else fires on 5 %."""
    generator = torch.Generator().manual_seed(0)
    z = 0.1 * torch.rand(1000, 1, generator=generator)
    z[:50] += 1
    assert int((firing(z) > 0).sum()) == 50

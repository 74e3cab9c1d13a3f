"""Is a caption's direction more than noise: each statistic from its definition, and p-values that are what they say."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hapax.core.directions.evidence import agreement, agreement_null, p_values, sign_flip_null, split_half


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_statistics_are_their_definitions(seeds: int) -> None:
    d = noise(5, seeds, 7) + 0.5
    for row, half, agreed in zip(d.numpy(), split_half(d).tolist(), agreement(d).tolist(), strict=True):
        assert half == pytest.approx(cosine(row[::2].mean(0), row[1::2].mean(0)))
        assert agreed == pytest.approx(np.mean([cosine(row[r], row[s]) for r, s in combinations(range(seeds), 2)]))


def test_p_values_count_the_draws_that_are_as_large() -> None:
    found = p_values(torch.tensor([0.5, 3.0, 4.5]), torch.tensor([4.0, 1.0, 3.0]))
    assert found.tolist() == pytest.approx([4 / 4, 3 / 4, 1 / 4])


def test_captions_without_meaning_have_even_p_values_and_a_direction_has_a_small_one() -> None:
    """Seeds of one caption may differ in length and spread, as those of a bank do."""
    d = noise(400, 6, 12) * (0.2 + noise(400, 6, 1, seed=1).abs()) * torch.linspace(0.5, 2, 12)
    told = d.clone()
    told[:20] += 2 * noise(20, 1, 12, seed=2)
    p = p_values(agreement(told), agreement_null(told))
    assert float((p[:20] <= 0.05).double().mean()) >= 0.8
    # 380 of them: three standard errors of a share of .05 are .034, of .5 .077.
    assert float((p[20:] <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.034 + 0.02)
    assert float((p[20:] <= 0.5).double().mean()) == pytest.approx(0.5, abs=0.077 + 0.03)


def test_flipped_signs_are_the_null_of_one_caption() -> None:
    d = noise(300, 8, 10)
    p = torch.stack([p_values(agreement(one)[None], sign_flip_null(one, 200))[0] for one in d])
    assert float((p <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.04)
    moved = noise(8, 10) + 3 * noise(10, seed=5)
    # Of 2^8 ways to flip only two leave all as they are.
    assert float(p_values(agreement(moved)[None], sign_flip_null(moved))) <= 0.03
    flips = torch.tensor(list(product((-1.0, 1.0), repeat=8)), dtype=torch.float64)[:, :, None]
    every = agreement(flips * d[0])
    assert float((sign_flip_null(d[0])[:, None] - every).abs().amin(1).max()) < 1e-9

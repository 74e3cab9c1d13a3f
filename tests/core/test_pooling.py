from __future__ import annotations

import pytest
import torch
from hapax.core import pooling
from hapax.core.errors import HapaxError
from hapax.core.pooling import pool_activations

W = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))


def encode(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ W)


def tokens(n: int = 5, steps: int = 4, positions: int = 8) -> torch.Tensor:
    return torch.randn(n, steps, positions, 6, generator=torch.Generator().manual_seed(1))


def test_mean_over_positions_and_steps():
    x = tokens()
    torch.testing.assert_close(pool_activations(encode, x), encode(x).mean(dim=(1, 2)))


def test_max_is_over_steps_of_the_mean_over_positions():
    x = tokens()
    torch.testing.assert_close(pool_activations(encode, x, how="max"), encode(x).mean(2).amax(1))


@pytest.mark.parametrize("options", [{"which": "last"}, {"steps": [-1]}, {"steps": [0, 3], "which": "last"}])
def test_the_last_step_is_the_papers(options):
    x = tokens()
    torch.testing.assert_close(pool_activations(encode, x, **options), encode(x[:, -1]).mean(1))


def test_chosen_steps():
    x = tokens()
    torch.testing.assert_close(pool_activations(encode, x, steps=[0, 2]), encode(x[:, [0, 2]]).mean(dim=(1, 2)))


@pytest.mark.parametrize("limit", [1, 7, 8, 20, 10_000])
def test_blocks_change_nothing_and_bound_what_is_encoded(monkeypatch, limit):
    monkeypatch.setattr(pooling, "TOKENS", limit)
    sizes = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return encode(x)

    x = tokens()
    torch.testing.assert_close(pool_activations(watched, x), encode(x).mean(dim=(1, 2)))
    assert max(sizes) <= max(limit, 8)


def test_small_half_precision_activations_do_not_vanish():
    x = torch.zeros(1, 1, 64, 6, dtype=torch.float16)
    x[0, 0, 0, 0] = 6e-8
    pooled = pool_activations(torch.relu, x)
    assert pooled.dtype == torch.float32
    assert pooled[0, 0] > 0


def test_no_graph_is_built():
    w = W.clone().requires_grad_()
    assert not pool_activations(lambda x: torch.relu(x @ w), tokens()).requires_grad


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((5, 8, 6), {}, "expected"),
        ((0, 4, 8, 6), {}, "expected"),
        ((5, 4, 0, 6), {}, "expected"),
        ((5, 4, 8, 6), {"steps": [4]}, "choose from 0 to 3"),
        ((5, 4, 8, 6), {"steps": []}, "choose from 0 to 3"),
        ((5, 4, 8, 6), {"how": "median"}, "'mean' or 'max'"),
        ((5, 4, 8, 6), {"which": "first"}, "'all' or 'last'"),
    ],
)
def test_bad_input_is_refused(shape, options, words):
    with pytest.raises(HapaxError, match=words):
        pool_activations(encode, torch.zeros(shape), **options)

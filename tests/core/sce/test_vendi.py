"""Vendi scores of all orders against eigenvalues of the whole Gram matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import rke_score, vendi_score

KERNELS = [{}, {"kernel": "gaussian", "sigma": 2.0}]


def renyi(x: np.ndarray, order: float, sigma: float | None) -> float:
    if sigma is None:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        k = x @ x.T
    else:
        k = np.exp(-np.square(x[:, None] - x[None]).sum(-1) / (2 * sigma**2))
    lam = np.linalg.eigvalsh(k / len(x))
    lam = lam[lam > 1e-13]
    if order == 1:
        return np.exp(-(lam * np.log(lam)).sum())
    return 1 / lam.max() if math.isinf(order) else (lam**order).sum() ** (1 / (1 - order))


@pytest.mark.parametrize("order", [0.5, 1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize("options", KERNELS)
@pytest.mark.parametrize("n", [5, 60])
def test_every_order_and_both_forms(order: float, options: dict, n: int):
    x = torch.randn(n, 10, generator=torch.Generator().manual_seed(0)).double()
    expected = renyi(x.numpy(), order, options.get("sigma"))
    assert vendi_score(x, order=order, **options) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("options", KERNELS)
def test_rke_is_order_two(options: dict):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).double()
    assert rke_score(x, **options) == pytest.approx(renyi(x.numpy(), 2, options.get("sigma")), rel=1e-9)
    assert rke_score(x, **options) < vendi_score(x, **options)


def test_repeats_change_nothing_and_kinds_count():
    x = torch.eye(7)[:5]
    assert vendi_score(x) == pytest.approx(5)
    assert vendi_score(x.repeat(9, 1)) == pytest.approx(5)
    assert vendi_score(x[:1]) == pytest.approx(1)


def test_random_features_come_near():
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)).double()
    exact = vendi_score(x, kernel="gaussian", sigma=3.0)
    assert vendi_score(x, kernel="gaussian", sigma=3.0, rff_dim=500) == pytest.approx(exact, rel=0.02)


def test_bad_input():
    with pytest.raises(HapaxError, match="order is 0"):
        vendi_score(torch.eye(3), order=0)
    with pytest.raises(HapaxError, match="needs sigma"):
        vendi_score(torch.eye(3), kernel="gaussian")
    with pytest.raises(HapaxError, match="x has only zeros in row 1"):
        rke_score(torch.tensor([[1.0], [0.0]]))

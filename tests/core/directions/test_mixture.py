"""The mixture's maths: the noise's own length does not count, and the closed form finds the nearest mixture."""

from __future__ import annotations

import torch
from hapax.core.directions.mixture import mixture_shares, paired_gram
from torch import Tensor


def test_the_gram_is_free_of_the_noise() -> None:
    x = torch.randn(3, 400, 64, generator=torch.Generator().manual_seed(0))
    gram = paired_gram(x, torch.ones(1, 400, dtype=torch.float64))[0]
    assert gram.abs().max() < 0.05 < (x.mean(1) - x.mean((0, 1))).square().sum(1).min()


def test_mixture_shares_agree_with_projected_gradient() -> None:
    """An independent solver of the same problem."""
    g = torch.Generator().manual_seed(0)
    h = torch.randn(20, 4, 6, generator=g, dtype=torch.float64)
    target = torch.randn(20, 6, generator=g, dtype=torch.float64)
    gram, products = h @ h.transpose(1, 2), (h @ target[:, :, None])[..., 0]
    logits = torch.zeros(20, 4, dtype=torch.float64)
    for _ in range(20000):
        w = logits.softmax(1)
        slope = (gram @ w[:, :, None])[..., 0] - products
        logits -= 0.1 * slope

    def cost(w: Tensor) -> Tensor:
        return ((w[:, :, None] * h).sum(1) - target).square().sum(1)

    found = mixture_shares(gram, products)
    assert (found >= 0).all()
    assert (cost(found) <= cost(logits.softmax(1)) + 1e-6).all()
    torch.testing.assert_close(cost(found), cost(logits.softmax(1)), atol=5e-3, rtol=0)

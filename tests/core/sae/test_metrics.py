"""Metrics against values worked out by hand."""

from __future__ import annotations

import json

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sae import MatryoshkaSAE, calibrate_threshold, sae_metrics


def identity_sae(prefix_sizes=(1, 3), offset: float = 0.0, k: int = 1) -> MatryoshkaSAE:
    """Latent i is coordinate i, counted from the offset."""
    sae = MatryoshkaSAE(3, 3, prefix_sizes, k)
    sae.W_enc.copy_(torch.eye(3))
    sae.W_dec.copy_(torch.eye(3))
    sae.b_dec.fill_(offset)
    return sae


TOKENS = torch.tensor([[1.0, 0, 0], [3.0, 0, 0], [0, 2.0, 0], [2.0, 2.0, 0]])
# About their mean (1.5, 1, 0) the squares sum to 5 + 4. The first prefix misses the second coordinate: 4 + 4.
FVU_OF_FIRST = 8 / 9


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_fvu_is_about_the_mean_not_about_zero(offset):
    fvu = sae_metrics(identity_sae(offset=offset), TOKENS + offset)["fvu"]
    assert fvu == pytest.approx([FVU_OF_FIRST, 0.0], rel=1e-6)


def test_fvu_of_the_mean_alone_is_one():
    sae = identity_sae((3,))
    sae.b_dec.copy_(TOKENS.mean(0))
    sae.threshold.fill_(1e6)
    assert sae_metrics(sae, TOKENS)["fvu"] == pytest.approx([1.0], rel=1e-6)


def test_l0_dead_and_density_by_hand():
    found = sae_metrics(identity_sae(), TOKENS)
    # Coordinate 0 is active in 3 of 4 tokens, coordinate 1 in 2, coordinate 2 in none.
    assert found["l0"] == [0.75, 1.25]
    assert found["dead"] == pytest.approx([0.0, 1 / 3])
    edges, counts = found["density"]["log10_edges"], found["density"]["counts"]
    assert (len(edges), edges[0], edges[-1]) == (13, -6.0, 0.0)
    # log10 of .75 and .5 are in the last half decade.
    assert counts == [[0] * 11 + [1], [0] * 11 + [2]]
    assert found["tokens"] == 4


def test_density_bins_are_half_decades():
    tokens = torch.zeros(2000, 3)
    tokens[:, 0] = 1.0  # density 1
    tokens[:20, 1] = 1.0  # density .01, log10 -2: the bin that starts there
    tokens[:1, 2] = 1.0  # density .0005, log10 -3.3
    (counts,) = sae_metrics(identity_sae((3,)), tokens)["density"]["counts"]
    assert counts == [0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1]


def test_more_tokens_than_a_chunk_change_nothing():
    once, often = (sae_metrics(identity_sae(), tokens) for tokens in (TOKENS, TOKENS.repeat(3000, 1)))
    for name in ("fvu", "l0", "dead"):
        assert often[name] == pytest.approx(once[name])


def test_metrics_are_json():
    found = sae_metrics(identity_sae(), TOKENS)
    assert json.loads(json.dumps(found)) == found


def test_metrics_equal_encode_and_decode():
    sae = MatryoshkaSAE(12, 48, (10, 48), 4, seed=1)
    sae.threshold.fill_(1.0)
    x = 2 * torch.randn(600, 12, generator=torch.Generator().manual_seed(2))
    found, z = sae_metrics(sae, x), sae.encode(x)
    variance = (x - x.mean(0)).square().sum()
    fvu = [float((sae.decode(z, level) - x).square().sum() / variance) for level in range(2)]
    assert found["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert found["l0"][1] == pytest.approx(float((z > 0).sum(1).float().mean()))


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (torch.ones(5, 3), "The 5 tokens to measure on don't vary"),
        (torch.full((1000, 3), 0.1), "don't vary"),
        (torch.zeros(0, 3), "The 0 tokens"),
        (torch.zeros(5, 4), "4 channels"),
        (torch.tensor([[torch.nan, 0, 0], [1, 0, 0]]), "1 of 2 tokens"),
    ],
)
def test_bad_tokens_are_refused(tokens, sentence):
    with pytest.raises(HapaxError, match=sentence):
        sae_metrics(identity_sae(), tokens)


def test_the_threshold_is_the_quantile():
    sae = identity_sae((3,), k=1)
    calibrate_threshold(sae, torch.tensor([[9.0, 5.0, 1.0], [8.0, 4.0, -1.0], [0.5, 7.0, 2.0]]))
    # Three tokens, k = 1: the three largest of {9, 8, 7, 5, ...} stay, 5 is the largest that must not.
    assert float(sae.threshold) == 5.0


def test_the_threshold_gives_exactly_k_on_its_tokens():
    sae = MatryoshkaSAE(12, 48, (48,), 5, seed=1)
    x = torch.randn(9001, 12, generator=torch.Generator().manual_seed(2))
    calibrate_threshold(sae, x)
    assert int((sae.encode(x) > 0).sum()) == pytest.approx(5 * 9001, abs=2)


def test_too_few_positive_entries_leave_the_threshold_at_zero():
    sae = identity_sae((3,), k=2)
    calibrate_threshold(sae, torch.tensor([[1.0, -1.0, -1.0], [2.0, 1.0, -1.0]]))
    assert float(sae.threshold) == 0.0

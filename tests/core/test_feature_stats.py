from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.feature_stats import FeatureStats
from hypothesis import given, settings
from hypothesis import strategies as st

SUMS = ("count", "sum_z", "sum_z2", "sum_ze", "sum_e")


def pictures(n: int, latents: int = 7, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = torch.relu(torch.randn(n, latents, generator=g) - 0.5)
    return z, torch.randn(n, width, generator=g)


def assert_equal_sums(a: FeatureStats, b: FeatureStats, tolerance: float = 1e-12) -> None:
    assert a.n == b.n
    for name in SUMS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance)


def test_sums_in_closed_form():
    z = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0], [6.0, 1.0, 0.0]])
    e = torch.tensor([[3.0, 0.0], [0.0, 4.0], [5.0, 0.0]])
    stats = FeatureStats.of(z, e)
    assert stats.count.tolist() == [2, 3, 0]
    assert stats.frequency.tolist() == [2 / 3, 1, 0]
    torch.testing.assert_close(stats.centroids, torch.tensor([[0.75, 0.25], [2 / 3, 1 / 3], [0, 0]]).double())
    torch.testing.assert_close(stats.mean, torch.tensor([2.0, 1.0]).double() / 3)
    torch.testing.assert_close(stats.effective, torch.tensor([64 / 40, 3.0, 0.0]).double())
    cosine = (0.75 * 2 + 0.25) / math.sqrt(0.625 * 5)
    torch.testing.assert_close(stats.distance, torch.tensor([1 - cosine, 0.0, 1.0]).double())


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 99))
def test_streaming_equals_batch_however_the_pictures_are_cut(cuts, seed):
    z, e = pictures(40, seed=seed)
    streamed = FeatureStats(7, 5)
    bounds = [0, *sorted(cuts), 40]
    for start, stop in pairwise(bounds):
        streamed.update(z[start:stop], e[start:stop])
    assert_equal_sums(streamed, FeatureStats.of(z, e))


def test_more_pictures_than_a_block():
    z, e = pictures(1000)
    assert_equal_sums(FeatureStats.of(z, e), FeatureStats(7, 5).update(z, e))


def test_merging_is_associative_and_commutative():
    def part(i: int) -> FeatureStats:
        return FeatureStats.of(*pictures(10 + i, seed=i))

    left = part(0).merge(part(1)).merge(part(2))
    right = part(0).merge(part(1).merge(part(2)))
    turned = part(2).merge(part(0)).merge(part(1))
    assert_equal_sums(left, right)
    assert_equal_sums(left, turned)
    whole = [torch.cat(x) for x in zip(*(pictures(10 + i, seed=i) for i in range(3)), strict=True)]
    assert_equal_sums(left, FeatureStats.of(*whole))


def test_merging_with_nothing_changes_nothing():
    z, e = pictures(20)
    assert_equal_sums(FeatureStats(7, 5).merge(FeatureStats.of(z, e)), FeatureStats.of(z, e))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_fp64_whatever_comes_in(dtype):
    z, e = pictures(30)
    z, e = z.to(dtype), e.to(dtype)
    stats = FeatureStats.of(z, e)
    assert stats.sum_z.dtype == torch.float64
    torch.testing.assert_close(stats.sum_z, z.double().sum(0), rtol=1e-13, atol=0)


def test_compute_does_not_need_the_order_of_the_embeddings():
    z, e = pictures(60)
    stats = FeatureStats.of(z, e)
    first, again = stats.compute(e), stats.compute(e[torch.randperm(60)])
    for name, column in first.columns().items():
        torch.testing.assert_close(column, again.columns()[name], msg=name)
    assert (first.distinctiveness_low == 0).all()
    assert (first.distinctiveness_high == 2).all()


def test_compute_refuses_other_pictures():
    z, e = pictures(60)
    stats = FeatureStats.of(z, e)
    for other in (e[:59], e[:, :4], e.roll(1, dims=1)):
        with pytest.raises(HapaxError, match="not those of the 60 pictures"):
            stats.compute(other)


def test_update_and_merge_refuse_another_shape():
    z, e = pictures(4)
    stats = FeatureStats(7, 5)
    with pytest.raises(HapaxError, match="made for 7 and 5"):
        stats.update(z[:, :6], e)
    with pytest.raises(HapaxError, match="same autoencoder"):
        stats.merge(FeatureStats(7, 6))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, e: (z[:3], e), "one row per picture"),
        (lambda z, e: (z[0], e), "one row per picture"),
        (lambda z, e: (z.index_fill(0, torch.tensor(2), math.nan), e), "activations hold NaN .* picture 2"),
        (lambda z, e: (z, e.index_fill(0, torch.tensor(1), math.inf)), "embeddings hold NaN .* picture 1"),
        (lambda z, e: (z - 1, e), "must be >= 0"),
        (lambda z, e: (z, e.index_fill(0, torch.tensor(0), 0)), "no direction"),
    ],
)
def test_bad_pictures_are_refused_and_leave_no_trace(change, words):
    z, e = pictures(4)
    stats = FeatureStats(7, 5)
    with pytest.raises(HapaxError, match=words):
        stats.update(*change(z, e))
    assert stats.n == 0
    assert not stats.sum_e.any()

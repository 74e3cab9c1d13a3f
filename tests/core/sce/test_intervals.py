"""The jackknife: what it recomputes, how often it covers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import sce_interval, schur_complement_entropy
from hapax.core.sce.intervals import t_quantile
from hapax.core.sce.pairs import blocks, unique_texts

GAUSSIAN = {"kernel": "gaussian", "sigma": 3.0}


@pytest.mark.parametrize("options", [{}, GAUSSIAN, {**GAUSSIAN, "rff_dim": 25}, {"folds": 2}, {**GAUSSIAN, "folds": 2}])
def test_the_score_in_the_middle_is_the_score(make_pairs: Callable, options: dict):
    image, text = make_pairs(80)
    found = sce_interval(image, text, blocks=10, **options)
    assert found.score == pytest.approx(schur_complement_entropy(image, text, **options), rel=1e-9)
    for name in ("image", "text", "image_effective", "text_effective"):
        low, high = getattr(found, name)
        assert low < getattr(found.score, name) < high


@pytest.mark.parametrize("options", [{}, GAUSSIAN])
def test_spread_is_that_of_scores_without_each_block(make_pairs: Callable, options: dict):
    image, text = make_pairs(90)
    block = blocks(unique_texts(text)[0], 6)
    logs = [np.log(schur_complement_entropy(image[block != b], text[block != b], **options).image) for b in range(6)]
    error = np.sqrt(5 / 6 * np.square(logs - np.mean(logs)).sum())
    found = sce_interval(image, text, blocks=6, **options)
    half = t_quantile(0.975, 5) * error
    assert np.log(found.image.high / found.score.image) == pytest.approx(half, rel=1e-6)
    assert np.log(found.image.low / found.score.image) == pytest.approx(-half, rel=1e-6)


def test_blocks_hold_an_even_share_of_every_prompt():
    group = torch.arange(203) % 7
    block = blocks(group, 10)
    for prompt in range(7):
        counts = torch.bincount(block[group == prompt], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert torch.bincount(block).max() - torch.bincount(block).min() <= 1
    assert torch.equal(block, blocks(group, 10))


def test_intervals_cover_what_other_pictures_give(make_pairs: Callable):
    """At 95 %, over fresh draws of 400 pairs; the truth is the mean score of so many."""
    image, text = make_pairs(40_000, 8, 6)
    rng, found = np.random.default_rng(0), []
    for _ in range(80):
        rows = torch.from_numpy(rng.choice(len(image), 400, replace=False))
        found.append(sce_interval(image[rows], text[rows]))
    truth = np.mean([one.score.image for one in found])
    covered = sum(one.image.low < truth < one.image.high for one in found)
    # Of 80 draws at 95 %, fewer than 69 has a chance of 1 in 1,000.
    assert 69 <= covered
    spread = np.std(np.log([one.score.image for one in found]))
    widths = np.mean([np.log(one.image.high / one.image.low) for one in found])
    assert widths / 2 == pytest.approx(2.093 * spread, rel=0.25)


def test_more_pictures_narrow_it(make_pairs: Callable):
    image, text = make_pairs(3200)
    widths = [np.log(r.high / r.low) for n in (200, 3200) for r in [sce_interval(image[:n], text[:n]).image]]
    assert 2 < widths[0] / widths[1] < 8


@pytest.mark.parametrize(("p", "freedom", "expected"), [(0.975, 4, 2.776), (0.975, 19, 2.093), (0.95, 9, 1.833)])
def test_t_quantiles(p: float, freedom: int, expected: float):
    assert t_quantile(p, freedom) == pytest.approx(expected, abs=5e-3)


def test_bad_input(make_pairs: Callable):
    image, text = make_pairs(30)
    with pytest.raises(HapaxError, match="blocks is 1; give at least 2"):
        sce_interval(image, text, blocks=1)
    with pytest.raises(HapaxError, match="31 blocks can't be made of 30 pairs"):
        sce_interval(image, text, blocks=31)
    with pytest.raises(HapaxError, match="10 blocks can't be shared out over 4 folds"):
        sce_interval(image, text, blocks=10, folds=4)

from __future__ import annotations

import math

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.metrics import (
    bias_floor,
    bias_interval,
    bias_score,
    coverage,
    kl_to_uniform,
    normalised_mutual_information,
    permutation_null,
    recall,
)


@pytest.mark.parametrize("counts", [[7, 3], [1, 2, 3, 4], [0, 0, 5], [10, 10, 10], [965, 35]])
def test_bias_is_the_papers_sum_over_pairs(counts):
    groups = len(counts)
    pairs = [abs(counts[i] - counts[j]) for i in range(groups) for j in range(i + 1, groups)]
    assert bias_score(counts) == pytest.approx(2 / (groups * (groups - 1)) * sum(pairs) / sum(counts), abs=1e-12)


@pytest.mark.parametrize("groups", [2, 3, 5, 8])
def test_all_in_one_group_gives_two_over_k_and_even_gives_zero(groups):
    assert bias_score([0] * (groups - 1) + [9]) == pytest.approx(2 / groups)
    assert bias_score([4] * groups) == 0
    assert kl_to_uniform([0] * (groups - 1) + [9]) == pytest.approx(math.log(groups))


@pytest.mark.parametrize(("groups", "pictures"), [(2, 1000), (5, 1000), (5, 100)])
def test_the_floor_is_what_even_draws_score(groups, pictures):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(groups, (4000, pictures), generator=generator)
    scores = [bias_score(row.bincount(minlength=groups)) for row in drawn]
    assert sum(scores) / len(scores) == pytest.approx(bias_floor(groups, pictures), rel=0.04)


def test_the_interval_covers_the_true_score():
    """95 % intervals of 200 samples of 300 pictures: fewer than 175 hits has a chance below 1e-5."""
    generator, p, hits = torch.Generator().manual_seed(1), torch.tensor([0.7, 0.2, 0.1]), 0
    for seed in range(200):
        counts = torch.multinomial(p, 300, replacement=True, generator=generator).bincount(minlength=3)
        _, low, high = bias_interval(counts, replicates=400, seed=seed)
        hits += low <= bias_score([70, 20, 10]) <= high
    assert hits >= 175


@pytest.mark.parametrize("counts", [[3], [], [0, 0], [-1, 2], [[1, 2], [3, 4]]])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(HapaxError, match="two or more groups"):
        bias_score(counts)


def test_recall_and_coverage_see_a_lost_mode():
    generator = torch.Generator().manual_seed(0)
    modes = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    reference = modes.repeat_interleave(100, 0) + torch.randn(200, 2, generator=generator)
    both = modes.repeat_interleave(100, 0) + torch.randn(200, 2, generator=generator)
    one = torch.randn(200, 2, generator=generator)
    for measure in (recall, coverage):
        assert measure(reference, both) > 0.9
        assert 0.4 < measure(reference, one) <= 0.5


def test_k_must_leave_a_neighbour():
    with pytest.raises(HapaxError, match="k is 3 with 3 pictures"):
        recall(torch.zeros(4, 2), torch.zeros(3, 2))


def test_mutual_information_of_equal_and_of_independent_labels():
    labels = torch.arange(60) % 3
    renamed = torch.tensor([7, 1, 4])[labels]
    assert normalised_mutual_information(labels, renamed) == pytest.approx(1)
    assert normalised_mutual_information(torch.arange(60) // 30, torch.arange(60) % 30) == pytest.approx(0, abs=1e-9)
    assert normalised_mutual_information(labels, torch.zeros(60)) == 0
    soft = torch.nn.functional.one_hot(labels).float()
    assert normalised_mutual_information(soft, labels) == pytest.approx(1)


def test_mutual_information_of_a_table_worked_by_hand():
    """Joint counts [[2, 1], [1, 2]]."""
    a, b = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 0, 1, 1])
    joint = 2 * (1 / 3) * math.log((1 / 3) / 0.25) + 2 * (1 / 6) * math.log((1 / 6) / 0.25)
    assert normalised_mutual_information(a, b) == pytest.approx(joint / math.log(2))


def test_shuffled_labels_share_little():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    null = permutation_null(labels, labels, draws=99, seed=0)
    assert float(null.max()) < 0.05 < normalised_mutual_information(labels, labels)

from __future__ import annotations

import pytest
import torch
from hapax.core.distinctiveness import unit_rows
from hapax.core.errors import HapaxError
from hapax.core.minority import minority_score, prune_redundant
from hypothesis import given
from hypothesis import strategies as st


def test_minmax_score_in_closed_form():
    d = torch.tensor([0.1, 0.3, 0.5]).double()
    nu = torch.tensor([0.2, 1.0, 0.6]).double()
    expected = torch.tensor([0.0 * 1.0, 0.5 * 0.0, 1.0 * 0.5]).double()
    torch.testing.assert_close(minority_score(d, nu), expected)


def test_rank_score_in_closed_form():
    d = torch.tensor([0.1, 900.0, 0.2, 0.2]).double()
    nu = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    expected = torch.tensor([0.0, 1 * (2 / 3), 0.5 * (1 / 3), 0.5 * 0]).double()
    torch.testing.assert_close(minority_score(d, nu, normalize="rank"), expected)


@pytest.mark.parametrize("normalize", ["minmax", "rank"])
def test_one_outlier_rescales_minmax_but_not_ranks(normalize):
    d = torch.linspace(0.1, 0.2, 9).double()
    nu = torch.zeros(10).double()
    score = minority_score(torch.cat([d, torch.tensor([2.0]).double()]), nu, normalize=normalize)
    assert (score[8] < 0.1) == (normalize == "minmax")


@pytest.mark.parametrize("normalize", ["minmax", "rank"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1e-300])
def test_constant_columns_give_finite_scores(normalize, value):
    constant = torch.full((5,), value).double()
    varied = torch.linspace(0, 1, 5).double()
    for d, nu in ((constant, varied), (varied, constant), (constant, constant)):
        score = minority_score(d, nu, normalize=normalize)
        assert torch.isfinite(score).all()
        assert ((score >= 0) & (score <= 1)).all()


def test_rounding_in_a_constant_column_is_not_magnified():
    d = torch.full((4,), 0.3).double() * (1 + 1e-15 * torch.arange(4))
    assert minority_score(d, torch.linspace(0, 1, 4).double()).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("normalize", ["minmax", "rank"])
def test_no_latents_no_scores(normalize):
    assert len(minority_score(torch.zeros(0).double(), torch.zeros(0).double(), normalize=normalize)) == 0


def test_unknown_normalisation_is_refused():
    with pytest.raises(HapaxError, match="'minmax', 'rank'"):
        minority_score(torch.zeros(2), torch.zeros(2), normalize="zscore")


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=2, max_size=30),
    st.sampled_from(["minmax", "rank"]),
)
def test_more_distinct_and_rarer_never_scores_less(pairs, normalize):
    d, nu = torch.tensor(pairs, dtype=torch.float64).T
    score = minority_score(d, nu, normalize=normalize)
    assert ((score >= 0) & (score <= 1)).all()
    better = (d[:, None] >= d) & (nu[:, None] <= nu)
    assert (score[:, None] - score)[better].min() >= -1e-12


def test_pruning_drops_what_lies_close_to_a_better_one():
    angles = torch.tensor([0.0, 0.05, 1.0, 1.06, 0.10, 2.0]).double()
    centroids = torch.stack([angles.cos(), angles.sin()], 1) * 3
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95, 0.6, 0.1]).double()
    # 1 - cos(.05) = .00125 and 1 - cos(.06) = .0018 are within .003; 1 - cos(.10) = .005 is not.
    assert prune_redundant(centroids, scores, percentile=10).tolist() == [3, 0, 4]


def test_pruning_keeps_only_scores_above_the_percentile():
    centroids = torch.eye(11).double()
    scores = torch.arange(11).double()
    assert prune_redundant(centroids, scores).tolist() == [10]
    assert prune_redundant(centroids, scores, percentile=0).tolist() == list(range(10, 0, -1))


def test_pruning_nothing():
    assert prune_redundant(unit_rows(torch.zeros(0, 3)), torch.zeros(0)).tolist() == []

from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.objective import group_losses, group_objective

LOSSES = torch.tensor([1.0, 2.0, 6.0, 4.0])
WEIGHTS = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
BY_HAND = torch.tensor([(1.0 + 0.5 * 2) / 1.5, (0.5 * 2 + 6 + 4) / 2.5])


def test_group_means_are_weighted():
    losses, mass = group_losses(LOSSES, WEIGHTS)
    torch.testing.assert_close(losses, BY_HAND)
    torch.testing.assert_close(mass, torch.tensor([1.5, 2.5]))


@pytest.mark.parametrize(
    ("risk", "penalty"),
    [
        ("variance", BY_HAND.var()),
        ("deviation", BY_HAND.std()),
        ("worst", BY_HAND.max() - BY_HAND.mean()),
    ],
)
def test_each_penalty_is_its_formula(risk, penalty):
    found = group_objective(LOSSES, WEIGHTS, variance_weight=0.7, risk=risk)
    torch.testing.assert_close(found, BY_HAND.mean() + 0.7 * penalty)


def test_worst_at_weight_one_is_group_dro():
    torch.testing.assert_close(group_objective(LOSSES, WEIGHTS, variance_weight=1.0, risk="worst"), BY_HAND.max())


def test_no_weight_is_plain_balancing_whatever_the_sizes():
    losses, weights = torch.tensor([1.0, 1.0, 1.0, 5.0]), torch.tensor([[1.0, 0]] * 3 + [[0, 1.0]])
    assert float(group_objective(losses, weights, variance_weight=0.0)) == 3.0


def test_masses_as_shares_give_the_mean_over_samples():
    found = group_objective(LOSSES, WEIGHTS, variance_weight=0.0, shares=WEIGHTS.sum(0))
    torch.testing.assert_close(found, LOSSES.mean())


def test_groups_absent_from_the_batch_are_left_out():
    wide = torch.cat([WEIGHTS, torch.zeros(4, 1)], 1)
    for risk in ("variance", "deviation", "worst"):
        torch.testing.assert_close(
            group_objective(LOSSES, wide, variance_weight=0.3, risk=risk),
            group_objective(LOSSES, WEIGHTS, variance_weight=0.3, risk=risk),
        )


@pytest.mark.parametrize("risk", ["variance", "deviation", "worst"])
def test_gradients_are_finite_where_groups_agree(risk):
    losses = torch.ones(4, requires_grad=True)
    group_objective(losses, WEIGHTS, variance_weight=1.0, risk=risk).backward()
    assert losses.grad is not None
    assert bool(torch.isfinite(losses.grad).all())


def test_the_variance_pulls_on_the_worse_group():
    losses = LOSSES.clone().requires_grad_(True)
    group_objective(losses, WEIGHTS, variance_weight=10.0).backward()
    assert losses.grad is not None
    assert float(losses.grad[2]) > 0 > float(losses.grad[0])


@pytest.mark.parametrize(
    ("weights", "risk", "words"),
    [
        (torch.ones(3, 2), "variance", "4 losses for weights of shape"),
        (torch.zeros(4, 2), "variance", "No group has any weight"),
        (WEIGHTS, "median", "risk is 'median'"),
    ],
)
def test_what_does_not_fit_is_refused(weights, risk, words):
    with pytest.raises(HapaxError, match=words):
        group_objective(LOSSES, weights, variance_weight=1.0, risk=risk)

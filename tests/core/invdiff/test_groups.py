from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.groups import balanced_weights, infer_groups
from hapax.core.invdiff.metrics import normalised_mutual_information, permutation_null


def planted(rare: float = 0.05, count: int = 400, probes: int = 12, noise: float = 0.5, seed: int = 0):
    """Losses in which a rare kind is worse at some probes, over scales that differ between probes."""
    generator = torch.Generator().manual_seed(seed)
    kind = (torch.arange(count) < rare * count).long()[torch.randperm(count, generator=generator)]
    losses = noise * torch.randn(count, probes, generator=generator) + kind[:, None] * (torch.arange(probes) % 2)
    return (losses + 5) * 10.0 ** (torch.arange(probes) - 6), kind


@pytest.mark.parametrize("rare", [0.03, 0.1, 0.4])
def test_a_planted_minority_is_found_whatever_the_probes_scales(rare):
    losses, kind = planted(rare)
    weights = infer_groups(losses, 2, seed=0)
    assert normalised_mutual_information(weights, kind) > 0.8
    # The rarer kind has the larger loss, so it is the last group.
    assert float(weights[kind == 1, 1].mean()) > 0.9


def test_rows_sum_to_one_and_no_weight_is_negative():
    weights = infer_groups(planted()[0], 5, seed=0)
    assert weights.shape == (400, 5)
    torch.testing.assert_close(weights.sum(1), torch.ones(400))
    assert float(weights.min()) >= 0


def test_equal_seeds_give_equal_groups():
    losses, _ = planted()
    assert torch.equal(infer_groups(losses, 4, seed=3), infer_groups(losses, 4, seed=3))


def test_order_and_scale_of_the_columns_do_not_matter():
    losses, _ = planted()
    other = infer_groups(losses.flip(1) * 100 - 7, 2, seed=0)
    torch.testing.assert_close(other, infer_groups(losses, 2, seed=0), atol=1e-3, rtol=0)


def test_noise_alone_tells_nothing():
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(400) < 40
    weights = infer_groups(torch.randn(400, 8, generator=generator), 2, seed=0)
    null = permutation_null(weights, kind, draws=199)
    assert normalised_mutual_information(weights, kind) <= float(null.max())


def test_losses_that_do_not_differ_leave_the_weights_even():
    assert torch.equal(infer_groups(torch.ones(6, 3), 3, seed=0), torch.full((6, 3), 1 / 3))


def test_prompts_are_normalised_apart():
    """The second prompt's losses are a thousand times larger; its minority is found all the same."""
    first, kind = planted(seed=1)
    second, other = planted(seed=2)
    prompt = torch.arange(2).repeat_interleave(400)
    weights = infer_groups(torch.cat([first, 1000 * second + 50]), 2, seed=0, prompt=prompt)
    assert normalised_mutual_information(weights[:400], kind) > 0.8
    assert normalised_mutual_information(weights[400:], other) > 0.8


def test_prompts_with_few_pictures_are_taken_together():
    losses, kind = planted()
    weights = infer_groups(losses, 2, seed=0, prompt=torch.arange(400))
    assert normalised_mutual_information(weights, kind) > 0.8


def test_balance_draws_groups_to_equal_size():
    losses, _ = planted(0.05)
    sizes = [float(infer_groups(losses, 2, seed=0, balance=b, temperature=4.0).sum(0).min()) for b in (0.0, 1.0)]
    assert sizes[0] < sizes[1]


def test_temperature_makes_groups_soft():
    losses, _ = planted()
    peaks = [float(infer_groups(losses, 2, seed=0, temperature=t).amax(1).mean()) for t in (0.1, 1.0, 10.0)]
    assert peaks[0] > peaks[1] > peaks[2]


def test_balanced_probabilities_make_every_group_as_likely():
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 500, replacement=True, generator=generator)
    p = balanced_weights(torch.nn.functional.one_hot(labels).float())
    torch.testing.assert_close(torch.zeros(3).double().index_add(0, labels, p), torch.full((3,), 1 / 3).double())


def test_balanced_probabilities_sum_to_one_under_each_prompt():
    weights = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    p = balanced_weights(weights, torch.arange(30) % 3)
    for u in range(3):
        assert float(p[u::3].sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("losses", "groups", "options", "words"),
    [
        (torch.zeros(5), 2, {}, "a row per picture"),
        (torch.full((5, 2), torch.nan), 2, {}, "finite numbers"),
        (torch.zeros(5, 2), 6, {}, "6 groups can't be made of 5"),
        (torch.zeros(5, 2), 0, {}, "0 groups"),
        (torch.zeros(5, 2), 2, {"temperature": 0.0}, "temperature is 0.0"),
        (torch.zeros(5, 2), 2, {"balance": 2.0}, "balance 2.0"),
        (torch.zeros(5, 2), 2, {"prompt": torch.zeros(4)}, "4 prompts for 5 pictures"),
    ],
)
def test_what_cannot_be_grouped_is_refused(losses, groups, options, words):
    with pytest.raises(HapaxError, match=words):
        infer_groups(losses, groups, seed=0, **options)

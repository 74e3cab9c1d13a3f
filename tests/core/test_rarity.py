from __future__ import annotations

import json
import math

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.rarity import FeatureStats, pool_activations, score_features
from hypothesis import given, settings
from hypothesis import strategies as st


def planted(
    seed: int, n: int = 400, share: float = 0.05, latents: int = 200, width: int = 48
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures of which a share has an attribute; latent 0 fires on it, imperfectly, the others at random."""
    g = torch.Generator().manual_seed(seed)
    has = torch.zeros(n, dtype=torch.bool)
    has[torch.randperm(n, generator=g)[: round(share * n)]] = True
    e = torch.randn(n, width, generator=g) * 0.1 + 0.15
    e[has, 3] += 0.8
    frequency = 0.02 + 0.9 * torch.rand(latents, generator=g) ** 3
    z = torch.relu(torch.randn(n, latents, generator=g) + 0.5) * (torch.rand(n, latents, generator=g) < frequency)
    hits = has & (torch.rand(n, generator=g) < 0.95)
    z[:, 0] = hits * (0.5 + torch.rand(n, generator=g))
    z[torch.randperm(n, generator=g)[:2], 0] += 0.2
    return z, e, has


def test_rows_in_closed_form():
    # Ten pictures on two axes: latent 0 fires on the only one along y, latent 1 on all, latent 2 never.
    z = torch.zeros(10, 3)
    z[0, 0], z[:, 1] = 2.0, 1.0
    e = torch.tensor([[0.0, 1.0]] + [[1.0, 0.0]] * 9)
    rare, common = score_features(z, e).rows()
    assert (rare["latent"], rare["count"], rare["frequency"], rare["score"]) == (0, 1, 0.1, 1.0)
    assert rare["distinctiveness"] == pytest.approx(1 - 0.1 / math.hypot(0.1, 0.9))
    assert (common["latent"], common["count"], common["score"]) == (1, 10, 0.0)
    assert common["distinctiveness"] == pytest.approx(0, abs=1e-15)
    assert common["distinctiveness_z"] == 0
    # Wilson's roots for 1 of 10.
    assert rare["frequency_low"] == pytest.approx(0.017876, abs=1e-6)
    assert rare["frequency_high"] == pytest.approx(0.404150, abs=1e-6)
    assert not rare["finding"]


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_rare_attribute_is_the_first_finding(seed):
    z, e, has = planted(seed)
    findings = score_features(z, e).findings()
    assert len(findings) <= 3
    first = findings.rows()[0]
    assert first["latent"] == 0
    assert first["distinctiveness_z"] > 3
    assert first["distinctiveness_p"] < 1e-6
    assert first["frequency_low"] < has.float().mean() < first["frequency_high"]
    assert first["distinctiveness_low"] < first["distinctiveness"] < first["distinctiveness_high"]


@pytest.mark.parametrize("seed", range(3))
def test_ranks_find_the_same_and_order_it_by_ranks(seed):
    z, e, _ = planted(seed)
    by_range, by_rank = score_features(z, e), score_features(z, e, normalize="rank")
    assert set(by_range.findings().latent.tolist()) == set(by_rank.findings().latent.tolist())
    d = by_rank.distinctiveness.argsort().argsort() / (len(by_rank) - 1)
    assert by_rank.score[by_rank.rank_of(0)] <= d[by_rank.rank_of(0)]
    assert d[by_rank.rank_of(0)] > 0.9


def test_random_latents_are_hardly_ever_findings():
    z_above, findings, scored = 0, 0, 0
    for seed in range(6):
        z, e, _ = planted(seed, latents=600)
        table = score_features(z, e)
        noise = table[(table.latent > 0) & (table.count >= 5)]
        z_above += int((noise.distinctiveness_z > 3).sum())
        findings += int(noise.finding.sum())
        scored += len(noise)
    assert scored > 3000
    assert z_above / scored <= 0.01
    assert findings / scored <= 0.005


def test_dead_latents_are_dropped_and_the_rest_ranked():
    z, e, _ = planted(0)
    z[:, [3, 50]] = 0
    table = score_features(z, e)
    assert len(table) == 198
    assert not {3, 50} & set(table.latent.tolist())
    assert (table.score.diff() <= 0).all()
    assert table.score.max() <= 1
    assert table.score.min() >= 0


def test_all_dead_gives_an_empty_table():
    table = score_features(torch.zeros(20, 4), torch.randn(20, 3))
    assert len(table) == 0
    assert table.rows() == []
    assert len(table.findings()) == 0


def test_no_latents_give_an_empty_table():
    assert len(score_features(torch.zeros(20, 0), torch.randn(20, 3))) == 0


@pytest.mark.parametrize("normalize", ["minmax", "rank"])
def test_constant_columns_are_scored_without_dividing_by_zero(normalize):
    equal = torch.ones(20, 4)
    same_pictures = torch.ones(20, 3)
    for z, e in ((equal, torch.randn(20, 3)), (equal, same_pictures), (torch.rand(20, 4), same_pictures)):
        table = score_features(z, e, normalize=normalize)
        for name, column in table.columns().items():
            assert torch.isfinite(column).all(), name
        assert not table.finding.any()
    json.dumps(table.rows(), allow_nan=False)


def test_too_few_pictures_are_listed_but_never_a_finding():
    z = torch.zeros(300, 2)
    z[:4, 0], z[:5, 1] = 1.0, 1.0
    e = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.2
    e[:5, 0] += 5.0
    rows = {row["latent"]: row for row in score_features(z, e).rows()}
    assert rows[0]["distinctiveness_z"] > 3
    assert not rows[0]["finding"]
    assert (rows[0]["distinctiveness_low"], rows[0]["distinctiveness_high"]) == (0, 2)
    assert rows[1]["finding"]
    assert score_features(z, e, min_support=4).finding.all()
    assert not score_features(z, e, min_support=6).finding.any()


@pytest.mark.parametrize("n", [2, 3, 6])
def test_few_pictures_are_scored_but_prove_nothing(n):
    g = torch.Generator().manual_seed(n)
    table = score_features(torch.rand(n, 8, generator=g), torch.randn(n, 4, generator=g))
    assert len(table) == 8
    for name, column in table.columns().items():
        assert torch.isfinite(column.double()).all(), name
    assert not table.finding.any()


@pytest.mark.parametrize("n", [0, 1])
def test_one_picture_has_no_share(n):
    with pytest.raises(HapaxError, match="at least 2"):
        score_features(torch.ones(n, 3), torch.ones(n, 2))


@pytest.mark.parametrize(
    ("z", "e"),
    [
        (torch.full((9, 2), math.nan), torch.ones(9, 2)),
        (torch.ones(9, 2), torch.full((9, 2), math.nan)),
        (torch.ones(9, 2), torch.ones(8, 2)),
        (-torch.ones(9, 2), torch.ones(9, 2)),
        (torch.ones(9), torch.ones(9, 2)),
    ],
)
def test_bad_input_is_refused(z, e):
    with pytest.raises(HapaxError):
        score_features(z, e)


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(HapaxError, match="normalize"):
        score_features(torch.rand(9, 2), torch.randn(9, 2), normalize="softmax")


def test_ties_go_to_the_rarer_then_to_the_lower_index():
    z = torch.zeros(20, 4)
    z[:3, 3], z[:2, 2], z[:2, 1], z[:, 0] = 1.0, 1.0, 1.0, 1.0
    table = score_features(z, torch.ones(20, 3))
    assert table.score.tolist() == [0, 0, 0, 0]
    assert table.latent.tolist() == [1, 2, 3, 0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_pictures_changes_nothing(seed):
    z, e, _ = planted(seed, n=60, share=0.2, latents=12, width=6)
    shuffle = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    first, again = score_features(z, e), score_features(z[shuffle], e[shuffle])
    for name, column in first.columns().items():
        torch.testing.assert_close(column, again.columns()[name], rtol=1e-9, atol=1e-12, msg=name)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(1e-3, 1), high=st.floats(1, 1e3))
def test_the_norms_of_embeddings_change_nothing(seed, low, high):
    z, e, _ = planted(seed, n=60, share=0.2, latents=12, width=6)
    norms = torch.linspace(low, high, 60, dtype=torch.float64).unsqueeze(1)
    first, again = score_features(z, e.double()), score_features(z, e.double() * norms)
    for name, column in first.columns().items():
        torch.testing.assert_close(column, again.columns()[name], rtol=1e-7, atol=1e-9, msg=name)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_the_units_of_a_latent_change_nothing(seed, scale):
    z, e, _ = planted(seed, n=60, share=0.2, latents=12, width=6)
    z = z.double()
    first, again = score_features(z, e), score_features(z * scale, e)
    for name, column in first.columns().items():
        torch.testing.assert_close(column, again.columns()[name], rtol=1e-7, atol=1e-9, msg=name)


def test_the_seed_moves_only_what_is_drawn():
    z, e, _ = planted(0)
    first, same, other = score_features(z, e), score_features(z, e), score_features(z, e, seed=1)
    drawn = {"distinctiveness_z", "distinctiveness_p", "distinctiveness_low", "distinctiveness_high"}
    for name, column in first.columns().items():
        assert torch.equal(column, same.columns()[name])
        if name != "finding":
            assert torch.equal(column, other.columns()[name]) == (name not in drawn), name


def test_streamed_scores_are_the_batchs():
    z, e, _ = planted(2)
    whole = score_features(z, e)
    halves = [FeatureStats(*z.shape[1:], e.shape[1]).update(z[i::2], e[i::2]) for i in range(2)]
    streamed = halves[0].merge(halves[1]).compute(torch.cat([e[0::2], e[1::2]]))
    for name, column in whole.columns().items():
        if name not in ("distinctiveness_low", "distinctiveness_high"):
            torch.testing.assert_close(column, streamed.columns()[name], rtol=1e-9, atol=1e-12, msg=name)


def test_half_precision_is_scored_like_full():
    z, e, _ = planted(3)
    z, e = z.half(), e.half()
    full, half = score_features(z.float(), e.float()), score_features(z, e)
    for name, column in full.columns().items():
        torch.testing.assert_close(column, half.columns()[name], msg=name)


def test_scoring_over_steps_finds_what_the_last_step_hides():
    z, e, has = planted(4, latents=8)
    g = torch.Generator().manual_seed(0)
    tokens = torch.rand(len(z), 3, 4, 8, generator=g) * (torch.rand(len(z), 3, 4, 8, generator=g) < 0.1)
    tokens[:, :2, :, 0] = 0
    tokens[has, 1, 2, 0] = 3.0
    over_steps = score_features(pool_activations(torch.relu, tokens), e)
    last = score_features(pool_activations(torch.relu, tokens, which="last"), e)
    z_of = {t: t.distinctiveness_z[t.rank_of(0)].item() for t in (over_steps, last)}
    assert over_steps.findings().latent.tolist() == [0]
    assert z_of[last] < 3

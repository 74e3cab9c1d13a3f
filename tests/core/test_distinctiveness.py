from __future__ import annotations

import math

import pytest
import torch
from hapax.core.distinctiveness import (
    bootstrap_distance,
    canonical_order,
    centroid_null,
    cosine_distance,
    random_offsets,
    unit_rows,
)
from hapax.core.statistics import bootstrap_weights


def cone(n: int, width: int, seed: int) -> torch.Tensor:
    """Embeddings like CLIP's: a common direction, and a spectrum that falls."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, width + 1).double() ** -0.5
    x = torch.randn(n, width, generator=g, dtype=torch.float64) * spread / spread.norm()
    return unit_rows(0.75 * x + unit_rows(torch.randn(width, generator=g, dtype=torch.float64)))


def clusters(n: int, width: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(6, width, generator=g, dtype=torch.float64)
    shares = torch.tensor([0.5, 0.2, 0.15, 0.08, 0.05, 0.02])
    which = torch.multinomial(shares, n, replacement=True, generator=g)
    noise = torch.randn(n, width, generator=g, dtype=torch.float64)
    return unit_rows(centres[which] + 0.3 * noise + 3.0)


def isotropic(n: int, width: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return unit_rows(torch.randn(n, width, generator=g, dtype=torch.float64))


def activations(n: int, latents: int, seed: int, tail: float) -> torch.Tensor:
    """Random latents with supports from 2 to 0.8 n pictures and log-normal strengths."""
    g = torch.Generator().manual_seed(seed)
    support = (2 * (0.4 * n) ** torch.rand(latents, generator=g)).round()
    fires = torch.rand(n, latents, generator=g).argsort(0).argsort(0) < support
    return fires * (tail * torch.randn(n, latents, generator=g, dtype=torch.float64)).exp()


def effective_pictures(z: torch.Tensor) -> torch.Tensor:
    return z.sum(0) ** 2 / z.square().sum(0)


def brute_force_null(z: torch.Tensor, e: torch.Tensor, permutations: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(99)
    weights = (z / z.sum(0)).T
    mean = e.mean(0)
    shuffled = [e[torch.randperm(len(e), generator=g)] for _ in range(permutations)]
    return torch.stack([cosine_distance(weights @ rows, mean) for rows in shuffled])


def test_cosine_distance_in_closed_form():
    angles = torch.tensor([0.0, 1e-6, 0.3, math.pi / 2, math.pi], dtype=torch.float64)
    x = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [5.0], [0.1], [2.0], [3.0]])
    expected = 2 * torch.sin(angles / 2) ** 2
    torch.testing.assert_close(cosine_distance(x, torch.tensor([7.0, 0.0])), expected, rtol=1e-9, atol=1e-30)


def test_a_zero_vector_has_distance_one():
    assert cosine_distance(torch.zeros(1, 3), torch.ones(3)).item() == 1
    assert cosine_distance(torch.ones(1, 3), torch.zeros(3)).item() == 1


def test_canonical_order_forgets_the_order():
    rows = torch.randn(30, 4).round()
    shuffled = rows[torch.randperm(30)]
    assert torch.equal(rows[canonical_order(rows)], shuffled[canonical_order(shuffled)])


@pytest.mark.parametrize("world", [cone, clusters, isotropic])
@pytest.mark.parametrize(("n", "width"), [(24, 16), (150, 48)])
def test_shared_null_is_the_permutation_null_of_equal_weights(world, n, width):
    e = world(n, width, seed=1)
    z = (activations(n, 40, seed=2, tail=1.0) > 0).double()
    brute = brute_force_null(z, e, 2000)
    mean, std, _ = centroid_null(e, permutations=600).moments(effective_pictures(z))
    assert ((mean - brute.mean(0)) / brute.std(0)).abs().max() < 0.25
    assert (std / brute.std(0) - 1).abs().max() < 0.2


@pytest.mark.parametrize("world", [cone, clusters, isotropic])
def test_shared_null_holds_for_weights_spread_over_all_pictures(world):
    e = world(150, 48, seed=1)
    z = 1 + torch.rand(150, 20, dtype=torch.float64) * torch.linspace(0.01, 3, 20)
    brute = brute_force_null(z, e, 2000)
    mean, std, _ = centroid_null(e, permutations=600).moments(effective_pictures(z))
    assert ((mean - brute.mean(0)) / brute.std(0)).abs().max() < 0.25
    assert (std / brute.std(0) - 1).abs().max() < 0.2


@pytest.mark.parametrize("world", [cone, clusters, isotropic])
def test_shared_null_errs_towards_zero_where_few_pictures_dominate(world):
    e = world(150, 48, seed=1)
    z = activations(150, 60, seed=3, tail=2.0)
    brute = brute_force_null(z, e, 2000)
    mean, std, _ = centroid_null(e, permutations=600).moments(effective_pictures(z))
    true_z_at_three = (mean + 3 * std - brute.mean(0)) / brute.std(0)
    assert true_z_at_three.min() > 2.6
    assert true_z_at_three.median() > 2.9


@pytest.mark.parametrize("world", [cone, clusters, isotropic])
def test_random_latents_have_standard_scores(world):
    e = world(300, 64, seed=5)
    z = activations(300, 3000, seed=6, tail=0.7)
    z = z[:, (z > 0).sum(0) >= 5]
    distance = cosine_distance((z / z.sum(0)).T @ e, e.mean(0))
    scores, p = centroid_null(e).test(distance, effective_pictures(z))
    assert abs(scores.mean().item()) < 0.1
    assert 0.85 < scores.std().item() < 1.1
    assert 0.03 < (p < 0.05).double().mean().item() < 0.07
    assert (p < 0.00135).double().mean().item() <= 0.003


def test_p_values_agree_with_the_permutations_where_they_are_skewed():
    e = clusters(150, 8, seed=2)
    z = torch.zeros(150, 1).double()
    z[:12] = 1
    brute = brute_force_null(z, e, 20_000).squeeze(1)
    null = centroid_null(e, permutations=2000)
    for level, factor in ((0.5, 1.2), (0.1, 1.2), (0.01, 1.5), (0.00135, 2.0)):
        distance = torch.quantile(brute, 1 - level).reshape(1)
        found = null.test(distance, torch.tensor([12.0]))[1].item()
        assert level / factor < found < level * factor
    assert null.test(torch.tensor([2.0]), torch.tensor([12.0]))[1].item() < 1e-6


def test_few_random_pictures_are_far_from_the_mean():
    e = isotropic(500, 64, seed=7) + 0.25
    e = unit_rows(e)
    few, many = centroid_null(e).moments(torch.tensor([5.0, 100.0]))[0]
    assert few > 5 * many


@pytest.mark.parametrize("e", [torch.tensor([[1.0], [-1.0]] * 8), torch.eye(16), torch.eye(2).repeat(8, 1)])
def test_null_of_embeddings_that_cancel_or_tie_is_finite(e):
    z, p = centroid_null(e.double()).test(torch.full((5,), 0.5), torch.tensor([1.0, 1.5, 2.0, 8.0, 15.5]))
    assert torch.isfinite(z).all()
    assert ((0 <= p) & (p <= 1)).all()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_null_of_few_pictures_is_finite(n):
    z, p = centroid_null(cone(n, 8, seed=0)).test(torch.full((n,), 0.3), torch.arange(1, n + 1))
    assert torch.isfinite(z).all()
    assert ((0 <= p) & (p <= 1)).all()


def test_equal_weights_on_all_pictures_have_no_score():
    e = cone(50, 8, seed=0)
    z, p = centroid_null(e).test(torch.tensor([1e-17]), torch.tensor([50.0]))
    assert (z.item(), p.item()) == (0, 0.5)


def test_identical_embeddings_have_no_score():
    e = unit_rows(torch.ones(20, 4))
    z, p = centroid_null(e).test(torch.zeros(2), torch.tensor([1.0, 5.0]))
    assert (z.tolist(), p.tolist()) == ([0, 0], [0.5, 0.5])


def test_null_is_seeded_and_ignores_the_order_of_pictures():
    e = cone(90, 12, seed=3)
    effective = torch.tensor([2.0, 7.5, 40.0])
    first = centroid_null(e, seed=1).moments(effective)
    again = centroid_null(e[torch.randperm(90)], seed=1).moments(effective)
    torch.testing.assert_close(first, again, rtol=1e-12, atol=0)
    assert not torch.equal(first[1], centroid_null(e, seed=2).moments(effective)[1])


def test_random_offsets_are_as_far_as_the_null_says():
    e = cone(200, 32, seed=4)
    offsets = random_offsets(e, effective=8.3, draws=2000, seed=0)
    assert offsets.shape == (2000, 32)
    expected = centroid_null(e).moments(torch.tensor([8.0]))[0].item()
    assert cosine_distance(e.mean(0) + offsets, e.mean(0)).mean().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("effective", [0.2, 1.0, 500.0])
def test_random_offsets_of_any_support(effective):
    assert torch.isfinite(random_offsets(cone(9, 5, seed=0), effective, draws=3)).all()


def test_bootstrap_is_the_bootstrap():
    e = cone(40, 6, seed=8)
    z = activations(40, 3, seed=9, tail=0.5) + torch.eye(40, 3)
    distance = cosine_distance((z / z.sum(0)).T @ e, e.mean(0))
    low, high = bootstrap_distance(z, e, distance, replicates=50, seed=2)

    order = canonical_order(torch.cat([e, z.norm(dim=1, keepdim=True)], 1))
    drawn = bootstrap_weights(40, 50, seed=2)
    for i in range(3):
        draws = []
        for counts in drawn:
            weights = counts * z[order, i]
            if weights.sum() > 0:
                centroid = (weights[:, None] * e[order]).sum(0) / weights.sum()
                draws.append(cosine_distance(centroid, (counts[:, None] * e[order]).mean(0)))
        recentred = torch.stack(draws) - torch.stack(draws).mean() + distance[i]
        expected = torch.quantile(recentred, torch.tensor([0.025, 0.975], dtype=torch.float64)).clamp(0, 2)
        torch.testing.assert_close(torch.stack([low[i], high[i]]), expected, rtol=1e-9, atol=1e-12)


def test_bootstrap_does_not_depend_on_its_blocks_or_the_order_of_pictures():
    e = cone(30, 5, seed=1)
    z = activations(30, 600, seed=2, tail=0.5)
    distance = cosine_distance((z / z.sum(0)).T @ e, e.mean(0))
    low, high = bootstrap_distance(z, e, distance, replicates=20)
    shuffled = torch.randperm(30)
    again = bootstrap_distance(z[shuffled], e[shuffled], distance, replicates=20)
    torch.testing.assert_close((low, high), again, rtol=1e-9, atol=1e-12)
    assert (low <= distance).all()
    assert (distance <= high).all()


def test_bootstrap_interval_covers_the_distance_that_pictures_give_on_average():
    found = []
    for trial in range(250):
        g = torch.Generator().manual_seed(trial)
        rare = torch.rand(250, generator=g) < 0.05
        shift = torch.zeros(24).double()
        shift[3] = 0.6
        x = torch.randn(250, 24, generator=g, dtype=torch.float64) * 0.15 + 0.2 + rare[:, None] * shift
        strength = torch.rand(250, generator=g).double() + 0.5
        e, z = unit_rows(x), (rare * strength)[:, None]
        distance = cosine_distance((z / z.sum(0)).T @ e, e.mean(0))
        low, high = bootstrap_distance(z, e, distance, seed=trial)
        found.append((distance.item(), low.item(), high.item()))
    distance, low, high = torch.tensor(found).T
    covered = ((low <= distance.mean()) & (distance.mean() <= high)).float().mean().item()
    assert 0.88 < covered <= 0.99

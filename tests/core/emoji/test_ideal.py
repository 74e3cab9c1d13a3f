"""The ideal denoiser against its definition, and the priors against what training draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hapax.core.emoji.ideal import free_prior, ideal_clean, named_sets, prior, velocity
from hapax.core.emoji.world import load_world

WORLD = load_world()


def test_posterior_mean_of_a_mixture_in_one_dimension() -> None:
    """By numerical integration over x_0, straight from Bayes' rule."""
    means, weights, spread, abar = np.array([-1.0, 2.0]), np.array([0.9, 0.1]), 0.3, 0.4
    grid = np.linspace(-8, 8, 200_001)
    density = sum(w * np.exp(-((grid - m) ** 2) / (2 * spread**2)) for m, w in zip(means, weights, strict=True))
    for x in (-1.5, 0.2, 0.6, 2.0):
        posterior = density * np.exp(-((x - abar**0.5 * grid) ** 2) / (2 * (1 - abar)))
        expected = (posterior * grid).sum() / posterior.sum()
        got = ideal_clean(
            torch.tensor([[x]], dtype=torch.float64), torch.tensor([abar], dtype=torch.float64),
            torch.from_numpy(means)[:, None], spread, torch.from_numpy(weights).log()[None],
        )  # fmt: skip
        assert got.item() == pytest.approx(expected, rel=1e-6)


def test_velocity_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    abar = torch.linspace(0.01, 0.99, 5, dtype=torch.float64)
    a, s = abar.sqrt()[:, None], (1 - abar).sqrt()[:, None]
    torch.testing.assert_close(velocity(a * clean + s * noise, abar, clean), a * noise - s * clean)


@pytest.mark.parametrize("concept", ["firefighter", "cat"])
def test_priors_are_what_training_draws(concept: str) -> None:
    rng, kinds, n = np.random.default_rng(0), WORLD.kinds(concept), 8000
    sets = named_sets(list(WORLD.truth[concept]))
    assert sum(sets.values()) == pytest.approx(1)
    chosen = rng.choice(len(sets), size=n, p=list(sets.values()))
    drawn = Counter(WORLD.draw(concept, set(list(sets)[i]), rng) for i in chosen)
    p = free_prior(WORLD, concept).double().numpy()
    seen = np.array([drawn[kind] / n for kind in kinds])
    # Five standard errors of each share.
    assert (np.abs(seen - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def test_named_attributes_are_certain() -> None:
    p = prior(WORLD, "cat", {"variant": "black"})
    assert [kind["variant"] for kind, share in zip(WORLD.kinds("cat"), p.tolist(), strict=True) if share] == [
        "black"
    ] * 4
    assert float(p.sum()) == pytest.approx(1)

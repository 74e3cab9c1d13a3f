"""Patterns: the levels are plain means, and what is pushed is exact where that can be said."""

from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.pattern import AddPattern, Approach, Pattern
from hapax.core.sae import MatryoshkaSAE
from hapax.core.steering import Scope
from hapax.core.taps import Step
from torch import Tensor

C, L, S, GRID = 6, 12, 3, (2, 2)
PROGRESS = (0.1, 0.5, 0.9)
TAPS = (AddPattern, Approach)


def sae() -> MatryoshkaSAE:
    return MatryoshkaSAE(C, L, (4, L), 3, seed=1)


def recorded(n: int = 20) -> tuple[Tensor, Tensor]:
    """Tokens [n, S, 4, C] and which pictures show a feature: at the second step and the last place only."""
    tokens = 0.1 * torch.randn(n, S, 4, C, generator=torch.Generator().manual_seed(0))
    shown = torch.arange(n) < 6
    tokens[:6, 1, 3] += 5 * sae().W_dec[2]
    return tokens, shown


def step(progress: list[float], grid: tuple[int, int] = GRID, cond: list[bool] | None = None) -> Step:
    values, rows = torch.tensor(progress), len(progress)
    held = torch.tensor(cond or [True] * rows)
    return Step(values, values, values, held, torch.arange(rows), grid, torch.empty(0), None)


def pattern() -> Pattern:
    tokens, shown = recorded()
    return Pattern.of(sae(), tokens, shown, PROGRESS, GRID)


def test_levels_are_means_over_the_two_sides() -> None:
    tokens, shown = recorded()
    found, z = pattern(), sae().encode(tokens.flatten(0, 2)).view(20, S, 4, L)
    assert sorted(found.latents.tolist()) == found.latents.tolist()
    for side, rows in ((found.shown, shown), (found.others, ~shown)):
        torch.testing.assert_close(side, z[rows].mean(0)[..., found.latents].view(S, 2, 2, -1))


def test_the_difference_is_when_and_where_the_feature_shows() -> None:
    found = pattern()
    change = (found.shown - found.others)[..., found.latents.tolist().index(2)]
    assert change.argmax() == 1 * 4 + 3
    assert change[1, 1, 1] > 20 * change.flatten().sort().values[-2].abs()


@pytest.mark.parametrize("kind", TAPS)
def test_strength_0_and_rows_out_of_scope_are_bit_equal(kind: type) -> None:
    h = torch.randn(3, C, 2, 2)
    assert kind(sae(), pattern(), strength=0.0)(h, step([0.5, 0.5, 0.5])) is h
    late = kind(sae(), pattern(), scope=Scope(0.6, 1.0))
    edited = late(h, step([0.5, 0.9, 0.9], cond=[True, True, False]))
    assert torch.equal(edited[[0, 2]], h[[0, 2]])
    assert not torch.equal(edited[1], h[1])


def test_approach_adds_the_decoded_way_to_the_levels() -> None:
    found, autoencoder = pattern(), sae()
    h = torch.randn(1, 4, C, generator=torch.Generator().manual_seed(4))
    z = autoencoder.encode(h[0])[:, found.latents]
    expected = h[0] + 0.7 * (found.at(0.5, GRID) - z) @ autoencoder.W_dec[found.latents]
    torch.testing.assert_close(Approach(autoencoder, found, strength=0.7)(h, step([0.5]))[0], expected)


def test_add_pattern_adds_the_decoded_difference() -> None:
    found, autoencoder = pattern(), sae()
    h = torch.randn(1, 4, C, generator=torch.Generator().manual_seed(4))
    expected = h[0] + 0.7 * (found.shown - found.others)[1].flatten(0, 1) @ autoencoder.W_dec[found.latents]
    torch.testing.assert_close(AddPattern(autoencoder, found, strength=0.7)(h, step([0.5]))[0], expected)
    away = AddPattern(autoencoder, found.reversed(), strength=-0.7)(h, step([0.5]))[0]
    torch.testing.assert_close(away, expected)


@pytest.mark.parametrize("kind", TAPS)
def test_rows_of_one_call_may_be_at_different_steps(kind: type) -> None:
    h, edit = torch.randn(2, C, 2, 2), kind(sae(), pattern(), strength=2.0)
    together = edit(h, step([0.1, 0.5]))
    alone = torch.cat([edit(h[:1], step([0.1])), edit(h[1:], step([0.5]))])
    torch.testing.assert_close(together, alone)


def test_levels_are_linear_between_steps_and_flat_beyond() -> None:
    found = pattern()
    torch.testing.assert_close(found.at(0.3, GRID), (found.at(0.1, GRID) + found.at(0.5, GRID)) / 2)
    torch.testing.assert_close(found.at(0.0, GRID), found.at(0.1, GRID))
    torch.testing.assert_close(found.at(1.0, GRID), found.at(0.9, GRID))


def test_levels_fit_any_token_grid() -> None:
    wide = pattern().at(0.5, (6, 8))
    assert wide.shape[0] == 48
    # The corners are the recorded cells' own.
    torch.testing.assert_close(wide[[0, 7, 40, 47]], pattern().at(0.5, GRID))


def test_reversed_leads_away() -> None:
    found = pattern()
    assert torch.equal(found.reversed().shown, found.others)
    assert torch.equal(found.reversed().reversed().shown, found.shown)


def test_one_sided_or_mismatched_recordings_are_refused() -> None:
    tokens, shown = recorded()
    with pytest.raises(HapaxError, match="some must and some must not"):
        Pattern.of(sae(), tokens, torch.ones_like(shown), PROGRESS, GRID)
    with pytest.raises(HapaxError, match="2 steps"):
        Pattern.of(sae(), tokens, shown, PROGRESS[:2], GRID)

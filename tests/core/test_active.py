"""Which features are in given pictures: where, and how strongly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hapax.core.active import active_features, active_latents, active_table, activity_sheet


@pytest.fixture
def tokens(feature_set):
    """[2, 3, 4, 8]: latent 3 is in the first picture at the third of four places, at two of three steps."""
    sae = feature_set.trained.sae
    tokens = torch.zeros(2, 3, 4, 8)
    tokens[0, :2, 2] = 5 * sae.W_dec[3]
    return tokens


def test_the_latent_is_found_where_it_is(feature_set, tokens):
    found = active_latents(feature_set.trained.sae, tokens, (2, 2), 3)
    best = found[0]
    assert best.latent == 3
    torch.testing.assert_close(best.heat[0], torch.tensor([[0.0, 0.0], [10 / 3, 0.0]]))
    torch.testing.assert_close(best.level, torch.tensor([1.25, 0.0]))
    assert best.fires.tolist() == [True, False]
    assert float(best.shades().max()) == 1


def test_silent_latents_are_left_out(feature_set, tokens):
    assert active_latents(feature_set.trained.sae, torch.zeros_like(tokens), (2, 2), 3) == []
    assert active_table([]) == "No feature is active in these pictures."


def test_features_come_with_names_and_what_is_usual(feature_set, tokens):
    found = active_features(feature_set.trained.sae, tokens, (2, 2), feature_set)
    assert [each.name for each in found] == ["line sketch", "latent 5"]
    assert found[0].usual == pytest.approx(7.5)
    assert found[0].fires.tolist() == [True, False]
    lines = active_table(found).splitlines()
    assert lines[1].split("  ")[:2] == ["1", "line sketch"]
    assert "in 1 of 2" in lines[1]
    assert "in 0 of 2" in lines[2]


def test_below_the_threshold_it_is_not_there(feature_set, tokens):
    shy = [replace(feature, threshold=2.0) for feature in feature_set.features]
    found = active_features(feature_set.trained.sae, tokens, (2, 2), replace(feature_set, features=tuple(shy)))
    assert not found[0].fires.any()


@pytest.mark.parametrize("pictures", [1, 2, 9])
def test_the_sheet_takes_any_number_of_pictures(feature_set, tokens, pictures):
    tokens = tokens[:1].expand(pictures, -1, -1, -1)
    found = active_latents(feature_set.trained.sae, tokens, (2, 2), 2)
    sheet = activity_sheet(torch.zeros(pictures, 32, 32, 3, dtype=torch.uint8), found)
    assert sheet.dtype == torch.uint8

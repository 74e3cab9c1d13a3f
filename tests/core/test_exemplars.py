from __future__ import annotations

import math

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.exemplars import colours, exemplars, heatmap, heatmaps, overlay
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 12))
def test_exemplars_are_the_largest_with_ties_by_index(values, k):
    expected = sorted((i for i, v in enumerate(values) if v > 0), key=lambda i: (-values[i], i))[:k]
    assert exemplars(torch.tensor(values).float(), k).tolist() == expected


@pytest.mark.parametrize(
    ("pooled", "k"), [(torch.ones(2, 2), 1), (torch.tensor([1.0, math.nan]), 1), (torch.ones(3), 0)]
)
def test_bad_exemplars_are_refused(pooled, k):
    with pytest.raises(HapaxError):
        exemplars(pooled, k)


def test_heatmap_at_the_grids_own_size_is_the_grid():
    values = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    torch.testing.assert_close(heatmap(values, 2), values / 4)


def test_heatmap_is_bilinear():
    found = heatmap(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 4)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.75, 1.0]).repeat(4, 1))


def test_positions_are_read_row_by_row():
    values = torch.arange(12.0)
    torch.testing.assert_close(heatmap(values, 24, grid=(3, 4)), heatmap(values.reshape(3, 4), 24))
    peak = heatmap(torch.nn.functional.one_hot(torch.tensor(3), 12).float(), 24, grid=(3, 4)).argmax().item()
    assert (peak // 24, peak % 24) < (8, 24)
    assert peak % 24 >= 18


def test_scales():
    values = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]])
    shared, own = heatmaps(values, 2), heatmaps(values, 2, shared=False)
    assert (shared[0].max().item(), shared[1].max().item()) == (0.25, 1.0)
    assert own.amax(dim=(1, 2)).tolist() == [1.0, 1.0]
    assert heatmap(values[1], 2, top=2.0).max().item() == 1.0


@pytest.mark.parametrize("values", [torch.zeros(9), torch.full((9,), 1e-42)])
def test_no_activation_is_no_heat(values):
    assert heatmap(values, 6).max().item() == 0
    assert heatmaps(torch.stack([values, values]), 6).max().item() == 0


def test_no_exemplars_no_heatmaps():
    assert heatmaps(torch.zeros(0, 9), 6).shape == (0, 6, 6)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(0, 999))
def test_heat_stays_in_range(height, width, size, seed):
    values = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) * 100
    heat = heatmap(values, size)
    assert heat.shape == (size, size)
    assert heat.min() >= 0
    assert heat.max() <= 1


@pytest.mark.parametrize(
    ("values", "size", "options", "words"),
    [
        (torch.ones(10), 4, {}, "do not fill a grid"),
        (torch.ones(10), 4, {"grid": (3, 3)}, "do not fill a grid"),
        (torch.ones(0), 4, {}, "do not fill a grid"),
        (torch.ones(2, 2, 2), 4, {}, "do not fill a grid"),
        (torch.ones(4), 0, {}, "at least 1 pixel"),
        (-torch.ones(4), 4, {}, ">= 0"),
        (torch.full((4,), math.nan), 4, {}, "finite"),
        (torch.ones(4), 4, {"top": 0.0}, "above 0"),
    ],
)
def test_bad_heatmaps_are_refused(values, size, options, words):
    with pytest.raises(HapaxError, match=words):
        heatmap(values, size, **options)


def test_colours_grow_lighter_at_an_even_pace():
    rgb = colours(torch.linspace(0, 1, 101)).double()
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)
    # CIE 1976 lightness, defined independently of the space the colours are made in.
    lightness = torch.where(luminance > 0.008856, 116 * luminance.pow(1 / 3) - 16, 903.3 * luminance)
    step = lightness.diff()
    assert step.min() > 0.3
    assert step.max() < 1.5
    assert rgb.min() >= 0
    assert rgb.max() <= 1


def test_overlay_leaves_the_picture_where_there_is_no_heat():
    picture = torch.randint(0, 256, (8, 6, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(overlay(picture, torch.zeros(4, 4)), picture)
    assert torch.equal(overlay(picture, torch.ones(8, 6), opacity=0.0), picture)
    heat = torch.zeros(8, 6)
    heat[2, 3] = 1.0
    changed = (overlay(picture, heat) != picture).any(-1)
    assert changed.nonzero().tolist() == [[2, 3]]


def test_full_heat_at_full_opacity_is_the_colour():
    picture = torch.zeros(2, 2, 3, dtype=torch.uint8)
    expected = (255 * colours(torch.ones(2, 2))).round().to(torch.uint8)
    assert torch.equal(overlay(picture, torch.ones(2, 2), opacity=1.0), expected)


@pytest.mark.parametrize(
    ("picture", "heat", "options"),
    [
        (torch.zeros(4, 4, 3), torch.zeros(4, 4), {}),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), torch.zeros(4, 4), {}),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(1, 4, 4), {}),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(4, 4), {"opacity": 1.5}),
    ],
)
def test_bad_overlays_are_refused(picture, heat, options):
    with pytest.raises(HapaxError):
        overlay(picture, heat, **options)

"""Sheets: what is drawn where, whatever the sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hapax.core.contact_sheet import CELL, GAP, MARGIN, TEXT, Row, contact_sheet, draw_sheet, feature_sheet, laid_over


def cell(sheet, column, row_top, size=CELL):
    left = MARGIN + GAP + TEXT + column * (size + GAP)
    return sheet[row_top + GAP : row_top + GAP + size, left : left + size]


def test_pictures_are_where_they_belong_pixel_by_pixel():
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sheet = draw_sheet("t", "s", [Row("a", [], [picture, 255 - picture])])
    twice = picture.repeat_interleave(2, 0).repeat_interleave(2, 1)
    top = MARGIN + 84
    assert torch.equal(cell(sheet, 0, top), twice)
    assert torch.equal(cell(sheet, 1, top), 255 - twice)


def test_a_row_takes_as_many_lines_as_it_needs():
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8)
    heights = [draw_sheet("t", "s", [Row("a", [], [picture] * n)]).shape[0] for n in (1, 8, 9)]
    assert heights[0] == heights[1] == heights[2] - CELL - GAP


def test_text_stays_in_its_room():
    """However long a name is, no ink reaches the pictures."""
    picture = torch.full((8, 8, 3), 7, dtype=torch.uint8)
    long = Row("a very long name " * 9, ["and numbers " * 20, "w" * 300], [picture], badge="12")
    sheet = draw_sheet("title " * 90, "subtitle " * 90, [long])
    assert bool((cell(sheet, 0, MARGIN + 84) == 7).all())
    assert bool((sheet[:, -MARGIN // 2 :] == sheet[0, 0]).all())


def test_contact_sheet_has_a_row_a_feature(feature_set):
    one = contact_sheet(replace(feature_set, features=feature_set.features[:1]))
    two = contact_sheet(feature_set)
    assert two.dtype == torch.uint8
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - one.shape[0] == CELL + 3 * GAP
    assert torch.equal(contact_sheet(feature_set), two)


def test_nothing_found_is_said_with_the_usual_pictures(feature_set):
    sheet = contact_sheet(replace(feature_set, features=()))
    assert sheet.shape[0] > 2 * CELL


def test_heatmaps_lie_over_the_pictures(feature_set):
    feature = feature_set.features[0]
    dark = replace(feature, heat=torch.zeros_like(feature.heat))
    assert all(torch.equal(a, b) for a, b in zip(laid_over(dark.pictures, dark.heat), dark.pictures, strict=True))
    assert not torch.equal(feature_sheet(feature), feature_sheet(dark))
    assert torch.equal(feature_sheet(feature, opacity=0.0), feature_sheet(dark))


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_any_number_of_columns(feature_set, columns):
    assert feature_sheet(feature_set.features[1], "a cook", columns=columns).ndim == 3

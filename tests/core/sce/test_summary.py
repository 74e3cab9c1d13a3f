"""Rows of plain numbers for JSON: an audit's whole and each of its prompts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from hapax.core.sce import sce_interval, schur_complement_entropy
from hapax.core.sce.summary import audit_rows, score_row


def test_a_row_is_the_score_with_its_intervals(make_pairs: Callable):
    image, text = make_pairs()
    row, expected = score_row(image, text, ridge=0.01), sce_interval(image, text, ridge=0.01)
    assert {name: row[name] for name in expected.score._fields} == expected.score._asdict()
    assert row["image_interval"] == list(expected.image)
    assert row["text_effective_interval"] == list(expected.text_effective)
    assert json.loads(json.dumps(row)) == row


def test_few_pictures_get_no_interval(make_pairs: Callable):
    row = score_row(*make_pairs(39))
    assert row["image_interval"] is None
    assert row["image"] == schur_complement_entropy(*make_pairs(39)).image


def test_any_number_of_folds(make_pairs: Callable):
    image, text = make_pairs(150)
    row = score_row(image, text, folds=7)
    low, high = row["image_interval"]
    assert low < row["image"] < high


def test_an_audit_has_the_whole_and_each_prompt(make_pairs: Callable):
    image, text = make_pairs(150, prompts=3)
    texts, prompt = torch.unique(text, dim=0, return_inverse=True)
    found = audit_rows(image, texts, prompt.tolist())
    assert found["image"] == pytest.approx(schur_complement_entropy(image, text).image)
    assert [row["index"] for row in found["prompts"]] == [0, 1, 2]
    for row in found["prompts"]:
        own = prompt == row["index"]
        assert row["image"] == pytest.approx(schur_complement_entropy(image[own], text[own]).image)
        assert (row["n"], row["unique_texts"]) == (50, 1)

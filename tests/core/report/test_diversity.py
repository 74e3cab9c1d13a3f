"""Diversity in audit.json and in the report: with intervals, by prompt, and as older files have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.report import validate, write_report
from hapax.core.sce.summary import audit_rows


@pytest.fixture
def scored(audit: dict) -> dict:
    """The audit with scores that were really measured, of random pictures under its prompts."""
    prompts = [prompt["index"] for prompt in audit["prompts"]] * 50
    image = torch.randn(len(prompts), 8, generator=torch.Generator().manual_seed(0))
    audit["sce"] = audit_rows(image, torch.eye(8)[: max(prompts) + 1], prompts)
    return audit


def test_what_is_measured_is_valid_and_shown(scored: dict, folder: Path):
    validate(scored)
    page = write_report(scored, folder).read_text("utf-8")
    sce = scored["sce"]
    low, high = sce["image_interval"]
    assert f"{sce['image']:.2f} ({low:.2f} to {high:.2f})" in page
    for row in sce["prompts"]:
        assert f"{row['image_effective']:.2f} ({row['image_effective_interval'][0]:.2f}" in page
    assert "Diversity among each prompt" in page


def test_few_pictures_have_no_interval(scored: dict, folder: Path):
    image = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    scored["sce"] = audit_rows(image, torch.eye(8)[:1], [0] * 30)
    assert scored["sce"]["image_interval"] is None
    validate(scored)
    assert f"{scored['sce']['image']:.2f}</dd>" in write_report(scored, folder).read_text("utf-8")


def test_older_files_without_intervals_stay_valid(audit: dict):
    for name in ("image_interval", "prompts"):
        del audit["sce"][name]
    validate(audit)
    audit["sce"] = None
    validate(audit)
    del audit["sce"]
    validate(audit)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("text_interval", [0.1, 0.2], r"sce\.text is .*; expected it inside its interval"),
        ("image_interval", [1.0], r"a list of 1 at sce\.image_interval; expected a list of 2 items, each a number"),
        ("n", 0, r"0 at sce\.n; expected a whole number of at least 1"),
    ],
)
def test_contradictions(scored: dict, place: str, value: Any, said: str):
    scored["sce"][place] = value
    with pytest.raises(HapaxError, match=said):
        validate(scored)


def test_a_prompt_that_is_not_there(scored: dict):
    scored["sce"]["prompts"][0]["index"] = 77
    with pytest.raises(HapaxError, match=r"sce.prompts\[0\].index is 77; expected the index of one of the prompts"):
        validate(scored)

"""Names and the bias compass in audit.json and in the report: shown where they are, checked against themselves."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hapax.core.directions.compass import Lean, Reading, compass_rows, read_mixture
from hapax.core.errors import HapaxError
from hapax.core.report import validate, write_report


def section(audit: dict, folder: Path) -> str:
    """The section of captions as plain text; empty where there is none."""
    page = write_report(audit, folder).read_text("utf-8")
    found = re.search(r'<section id="captions">(.*?)</section>', page, re.DOTALL)
    assert ('href="#captions"' in page) == bool(found)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[1])) if found else ""


def test_findings_are_listed_with_their_names_and_scores(audit: dict, folder: Path):
    said = section(audit, folder)
    assert "named by an index of 612 captions" in said
    findings = [f for prompt in audit["prompts"] for f in prompt["features"] if f["finding"]]
    assert said.count("no good name") == sum(f["label"] is None for f in findings) > 0
    for feature in findings:
        if feature["label"]:
            assert f"{feature['label']} " in said
    assert "portrait, smiling" in said
    assert "0.31" in said
    audit["naming"] = {"by": "clip", "captions": 12}
    assert "named by a bank of 12 captions: by the one that CLIP sees" in section(audit, folder)


def test_the_compass_is_shown_with_intervals_and_leans(audit: dict, folder: Path):
    said = section(audit, folder)
    assert "128 seeds a prompt, 8 steps, at mid" in said
    assert "The lean is 1 where all is woman, -1 where all is man" in said
    assert "woman 13 % (5 to 21 %) -0.74 (-0.90 to -0.58)" in said
    assert "man 18 % (10 to 26 %)" in said


def test_what_was_read_is_valid_and_shown(audit: dict, folder: Path):
    """Of activations that were really read, with four poles."""
    x = torch.randn(5, 40, 6, generator=torch.Generator().manual_seed(0))
    poles = ["{}, a", "{}, b", "c {}", "{}, d"]
    readings = [read_mixture(prompt["prompt"], poles, x, replicates=50) for prompt in audit["prompts"]]
    audit["compass"] = compass_rows(readings, poles, {"steps": 4, "site": "mid"})
    validate(audit)
    assert len(audit["compass"]["prompts"][0]["leans"]) == 6
    said = section(audit, folder)
    assert "c \u2026" in said
    assert "lean is 1" not in said


def test_poles_that_are_not_told_apart_are_null(audit: dict, folder: Path):
    unread = Lean("{}, woman", "{}, man", math.nan, math.nan, math.nan, 1.0)
    shares = {"{}, woman": (0.5, 0.0, 1.0), "{}, man": (0.5, 0.0, 1.0)}
    readings = [Reading(prompt["prompt"], shares, [unread], 8) for prompt in audit["prompts"]]
    audit["compass"] = compass_rows(readings, list(shares), {"steps": 4, "site": "mid"})
    assert audit["compass"]["prompts"][0]["leans"][0]["value"] is None
    validate(audit)
    assert section(audit, folder).count("not told apart") == len(audit["prompts"])
    assert str(unread) == "not told apart"


def test_without_either_there_is_no_section(audit: dict, folder: Path):
    audit["compass"] = None
    del audit["naming"]
    assert section(audit, folder) == ""
    del audit["compass"]
    validate(audit)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("index",), 77, r"compass.prompts\[0\].index is 77; expected the index of one of the prompts"),
        (("shares", 0, "pole"), "x", r"compass.prompts\[0\].shares are of other poles; expected one a pole"),
        (("shares", 0, "share"), 0.15, r"compass.prompts\[0\].shares sum to 1.02; expected shares that sum to 1"),
        (("shares", 0, "low"), 0.2, r"compass.prompts\[0\].shares\[0\].share is 0.13; expected it inside its interval"),
        (("leans", 0, "low"), 0.9, r"compass.prompts\[0\].leans\[0\].value is -0.74; expected it inside its interval"),
        (("leans", 0, "value"), None, r"compass.prompts\[0\].leans\[0\] has some of value, low and high; expected all"),
        (("leans", 0, "p"), 1.5, r"1.5 at compass.prompts\[0\].leans\[0\].p; expected a number from 0 to 1"),
    ],
)
def test_contradictions(audit: dict, place: tuple, value: Any, said: str):
    *way, last = place
    row = audit["compass"]["prompts"][0]
    for step in way:
        row = row[step]
    row[last] = value
    with pytest.raises(HapaxError, match=said):
        validate(audit)

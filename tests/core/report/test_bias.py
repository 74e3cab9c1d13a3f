"""Bias before and after guidance in the report: what changed, what it cost, and what chance alone makes."""

from __future__ import annotations

import re
from pathlib import Path

from hapax.core.report import write_report


def section(audit: dict, folder: Path) -> str:
    """The section as plain text."""
    page = write_report(audit, folder).read_text("utf-8")
    found = re.search(r'<section id="bias">(.*?)</section>', page, re.DOTALL)
    assert found
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[1]))


def test_change_and_cost_are_shown_with_intervals(audit: dict, folder: Path):
    said = section(audit, folder)
    assert "Over 1 prompt the bias score went from 0.83 to 0.38 (-55 %)." in said
    assert "Of groups that are even, chance alone makes 0.05 of so many pictures." in said
    assert "0.83 (0.76 to 0.90)" in said
    assert "0.40 (0.32 to 0.50)" in said
    assert "247 of 250" in said
    assert "2.40 (2.30 to 2.50)" in said


def test_a_file_without_the_costs_is_shown_without_them(audit: dict, folder: Path):
    row = audit["invdiff"]["prompts"][0]
    audit["invdiff"]["prompts"][0] = {key: row[key] for key in ("prompt", "bias_before", "bias_after", "groups")}
    said = section(audit, folder)
    assert "Divergence" not in said
    assert "chance alone" not in said
    assert "0.83" in said


def test_a_module_that_makes_it_worse_is_said_to(audit: dict, folder: Path):
    row = audit["invdiff"]["prompts"][0]
    for name in [key for key in row if key.endswith(("_before", "_before_interval"))]:
        other = name.replace("before", "after")
        row[name], row[other] = row[other], row.get(name)
    for group in row["groups"]:
        group["before"], group["after"] = group["after"], group["before"]
    assert "from 0.38 to 0.83 (+121 %). It grew: the module made things worse here." in section(audit, folder)

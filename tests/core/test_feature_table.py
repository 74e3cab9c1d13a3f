from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.feature_table import FeatureTable


def table_of(latents: list[int], finding: list[bool]) -> FeatureTable:
    columns = {f.name: torch.arange(len(latents)).double() for f in fields(FeatureTable)}
    columns |= {"latent": torch.tensor(latents), "finding": torch.tensor(finding, dtype=torch.bool)}
    return FeatureTable(**columns)


def test_rows_are_json_in_rank_order():
    rows = table_of([7, 3], [True, False]).rows()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["latent"] for row in rows] == [7, 3]
    assert [row["finding"] for row in rows] == [True, False]
    assert set(rows[0]) == {f.name for f in fields(FeatureTable)}


def test_findings_keep_their_ranks():
    found = table_of([5, 6, 7, 8], [False, True, False, True]).findings()
    assert found.latent.tolist() == [6, 8]
    assert found.score.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("rows", "latents"),
    [(slice(1, 3), [6, 7]), (slice(0, 0), []), (torch.tensor([2, 0]), [7, 5])],
)
def test_slicing_by_rank(rows, latents):
    part = table_of([5, 6, 7], [True] * 3)[rows]
    assert part.latent.tolist() == latents
    assert len(part) == len(latents)


def test_one_index_is_refused_with_advice():
    with pytest.raises(HapaxError, match=r"rows\(\)"):
        table_of([5], [True])[0]


def test_rank_of_a_latent():
    table = table_of([5, 6], [True, True])
    assert table.rank_of(6) == 1
    with pytest.raises(HapaxError, match="latent 9"):
        table.rank_of(9)


def test_tables_are_frozen():
    with pytest.raises(FrozenInstanceError):
        table_of([1], [True]).score = torch.zeros(1)


@pytest.mark.parametrize("finding", [[True, False], [[True]]])
def test_columns_must_be_equally_long(finding):
    with pytest.raises(HapaxError, match="equally long"):
        table_of([1], finding)

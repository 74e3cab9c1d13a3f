"""What Find Rare Features and Load Features tell the browser: a table, and a picture of each feature."""

from __future__ import annotations

import json

import planted as truth
import pytest
from hapax.nodes.listing import feature_ui
from PIL import Image

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


def test_a_table_and_pictures_to_choose_from(findings, base_directory):
    features = findings[0]
    told = feature_ui(features)
    ((head, *rows),) = told["hapax_table"]
    assert head[:3] == ["number", "feature", "pictures"]
    assert [row[0] for row in rows] == [feature.number for feature in features.features]
    assert rows[0][2] == len(truth.RARE)
    assert json.loads(json.dumps(told)) == told
    for listed, feature in zip(told["hapax_features"], features.features, strict=True):
        assert features.find(listed["wanted"]) is feature
        assert listed["rate"]["low"] <= listed["rate"]["rate"] <= listed["rate"]["high"]
        place = base_directory / "temp" / listed["picture"]["subfolder"] / listed["picture"]["filename"]
        with Image.open(place) as picture:
            assert picture.size == (64, 64)


def test_the_node_sends_it(planted, scorer, findings):
    sent = truth.find(planted, scorer, sae=findings[3]).ui
    assert len(sent["hapax_features"]) == len(findings[0].features)

"""Saved workflows go on working: the shipped ones against the committed schema, with no ComfyUI needed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SNAPSHOT = json.loads((REPO / "tests" / "node_schema.json").read_text(encoding="utf-8"))
WORKFLOWS = sorted((REPO / "example_workflows").glob("*.json"))
PYTHON_TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}


@pytest.fixture(params=WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def workflow(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def our_nodes(workflow):
    return [node for node in workflow["nodes"] if node["type"].startswith("Hapax")]


def test_every_node_is_in_a_shipped_workflow():
    used = {node["type"] for path in WORKFLOWS for node in our_nodes(json.loads(path.read_text(encoding="utf-8")))}
    assert used == set(SNAPSHOT)


def test_inputs_and_outputs_are_those_of_the_schema(workflow):
    for node in our_nodes(workflow):
        known = SNAPSHOT[node["type"]]
        kinds = {each["name"]: each["type"] for each in known["inputs"]}
        for slot in node["inputs"]:
            assert kinds.get(slot["name"]) == slot["type"], (node["type"], slot)
        outputs = [(each["name"], each["type"]) for each in known["outputs"]]
        assert [(each["name"], each["type"]) for each in node["outputs"]] == outputs


def test_every_required_wire_is_connected(workflow):
    for node in our_nodes(workflow):
        wired = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        needed = {
            each["name"] for each in SNAPSHOT[node["type"]]["inputs"] if not each["optional"] and not each["widget"]
        }
        assert needed <= wired, node["type"]


def test_widget_values_stand_in_their_places(workflow):
    for node in our_nodes(workflow):
        places, values = list(widget_places(node["type"])), node.get("widgets_values", [])
        needed = [place for place in places if not place[2]]
        assert len(needed) <= len(values) <= len(places), (node["type"], values)
        for (name, types, _), value in zip(places, values, strict=False):
            assert isinstance(value, types), (node["type"], name, value)


def widget_places(kind):
    """Name, Python type and whether it is optional, for each saved value; a seed's control has one too."""
    for each in SNAPSHOT[kind]["inputs"]:
        if each["widget"]:
            yield each["name"], PYTHON_TYPES[each["type"]], each["optional"]
        if each["control"]:
            yield "control after generate", str, each["optional"]


def test_links_join_slots_of_one_type(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, out, target, into, kind in workflow["links"]:
        assert kind in (nodes[source]["outputs"][out]["type"], "*")
        assert nodes[target]["inputs"][into]["link"] == link
        assert nodes[target]["inputs"][into]["type"] == kind
        assert link in nodes[source]["outputs"][out]["links"]


def test_workflows_are_plain(workflow):
    # to_api in workflows.py, and older frontends, know no more than this.
    assert all(node["mode"] == 0 for node in workflow["nodes"])
    assert not workflow.get("definitions", {}).get("subgraphs")
    assert not {"Reroute", "PrimitiveNode"} & {node["type"] for node in workflow["nodes"]}
    text = json.dumps(workflow)
    assert "/root" not in text
    assert "/home" not in text


def test_nodes_and_groups_do_not_overlap(workflow):
    boxes = [(node["id"], *node["pos"], *node["size"]) for node in workflow["nodes"]]
    title = 30
    for i, (one, x1, y1, w1, h1) in enumerate(boxes):
        for two, x2, y2, w2, h2 in boxes[i + 1 :]:
            apart = x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 - title or y2 + h2 <= y1 - title
            assert apart, f"node {one} lies on node {two}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_workflows_have_a_thumbnail(path):
    picture = path.with_suffix(".jpg")
    assert picture.read_bytes()[:3] == b"\xff\xd8\xff"
    assert picture.stat().st_size < 100_000


def test_help_pages_and_locale_are_those_of_the_nodes():
    pages = {path.stem for path in (REPO / "web" / "docs").glob("*.md")}
    assert pages == set(SNAPSHOT)
    locale = json.loads((REPO / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(locale) == set(SNAPSHOT)
    for name, node in locale.items():
        written = (REPO / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8").partition("## Inputs")[0]
        title, _, text = written.partition("\n")
        assert title == f"# {node['display_name']}"
        assert len(text.split()) > 12, f"the help page of {name} says nothing but its tables"
        assert list(node["inputs"]) == [each["name"] for each in SNAPSHOT[name]["inputs"]]
        assert [each["name"] for each in node["outputs"].values()] == [
            each["name"] for each in SNAPSHOT[name]["outputs"]
        ]
        texts = [
            node["description"],
            *(each["tooltip"] for each in [*node["inputs"].values(), *node["outputs"].values()]),
        ]
        assert all(texts), f"{name} lacks a description or a tooltip"


class TestRule:
    """What may change in a node that people have in their workflows."""

    @pytest.fixture
    def old(self):
        return {
            "N": {
                "inputs": [
                    {"name": "model", "type": "MODEL", "optional": False, "widget": False, "control": False},
                    {"name": "strength", "type": "FLOAT", "optional": False, "widget": True, "control": False},
                ],
                "outputs": [{"name": "model", "type": "MODEL"}],
            }
        }

    @pytest.fixture
    def new(self, old):
        return copy.deepcopy(old)

    @pytest.fixture
    def breaks(self, sibling):
        return sibling("schema_files").breaks

    def test_nothing_changed(self, breaks, old, new):
        assert breaks(old, new) == []

    def test_adding_at_the_end_is_allowed(self, breaks, old, new):
        new["N"]["inputs"].append({"name": "mask", "type": "MASK", "optional": True, "widget": False})
        new["N"]["outputs"].append({"name": "info", "type": "STRING"})
        new["M"] = {"inputs": [], "outputs": []}
        assert breaks(old, new) == []

    def test_adding_what_is_required_is_not(self, breaks, old, new):
        new["N"]["inputs"].append(
            {"name": "mask", "type": "MASK", "optional": False, "widget": False, "control": False}
        )
        assert breaks(old, new) == ["N: the new input mask isn't optional"]

    @pytest.mark.parametrize("change", ["name", "type"])
    def test_renaming_or_retyping_is_not(self, breaks, old, new, change):
        new["N"]["inputs"][1][change] = "other"
        assert breaks(old, new) == ["N: its inputs were changed, moved or removed"]

    def test_moving_is_not(self, breaks, old, new):
        new["N"]["inputs"].reverse()
        assert breaks(old, new) == ["N: its inputs were changed, moved or removed"]

    def test_removing_is_not(self, breaks, old, new):
        del new["N"]["outputs"][0]
        assert breaks(old, new) == ["N: its outputs were changed, moved or removed"]
        assert breaks(old, {}) == ["N is gone"]

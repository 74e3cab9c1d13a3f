"""The shipped workflows: read, and turned into the API's form as the frontend does (test_browser.py compares)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "example_workflows"
NOTES = {"MarkdownNote", "Note"}

Workflow = dict[str, Any]
Node = dict[str, Any]


def shipped() -> dict[str, Workflow]:
    """Every shipped workflow by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def nodes_of(workflow: Workflow) -> list[Node]:
    """The nodes that run: notes are left out."""
    return [node for node in workflow["nodes"] if node["type"] not in NOTES]


def widget_slots(node: Node, schema_files: Any) -> Iterator[str | None]:
    """What each place of `widgets_values` is for; None is the "control after generate" that follows a seed."""
    for name, kind, options, _ in schema_files.inputs_of(node):
        if schema_files.is_widget(kind, options):
            yield name
        if schema_files.has_control(name, kind, options):
            yield None


def to_api(workflow: Workflow, object_info: dict[str, Any], schema_files: Any) -> dict[str, Any]:
    """The prompt that the frontend would send for `workflow`, on a server with `object_info`.

    Plain nodes only: no subgraphs, reroutes, primitives, muted or bypassed nodes; the shipped ones have none.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in nodes_of(workflow):
        slots = widget_slots(object_info[node["type"]], schema_files)
        values = zip(slots, node.get("widgets_values", []), strict=False)
        inputs: dict[str, Any] = {name: value for name, value in values if name is not None}
        inputs |= {each["name"]: links[each["link"]] for each in node.get("inputs", []) if each["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt

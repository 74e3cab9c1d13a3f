"""Files that follow from the nodes' schemas: the snapshot that saved workflows rest on, the locale, help tables.

Run `python tests/nodes/schema_files.py` from the repository after a change of a schema: it starts the first ComfyUI
found and rewrites them. A change that would break saved workflows is refused; `--unreleased` allows it, for nodes
that no release has shipped.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
SNAPSHOT = REPO / "tests" / "node_schema.json"
LOCALE = REPO / "locales" / "en"
DOCS = REPO / "web" / "docs"
TABLES = "## Inputs"
WIRES = {"HAPAX_CLIP": "CLIP SCORER"}
SEEDS = {"seed", "noise_seed"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}

Definition = dict[str, Any]


def ours(object_info: dict[str, Definition]) -> dict[str, Definition]:
    """This pack's part of a server's /object_info."""
    return {name: node for name, node in sorted(object_info.items()) if name.startswith("Hapax")}


def inputs_of(node: Definition) -> list[tuple[str, str, dict[str, Any], bool]]:
    """Name, type, options and whether it is optional, in the order that the frontend keeps widget values in."""
    found = []
    for section in ("required", "optional"):
        for name in node["input_order"].get(section, []):
            kind, options = [*node["input"][section][name], {}][:2]
            found.append((name, "COMBO" if isinstance(kind, list) else kind, options, section == "optional"))
    return found


def is_widget(kind: str, options: dict[str, Any]) -> bool:
    """Whether the frontend draws a widget for an input and so saves a value for it."""
    return kind in WIDGETS and not options.get("forceInput")


def has_control(name: str, kind: str, options: dict[str, Any]) -> bool:
    """Whether a "control after generate" follows an input's widget, with a saved value of its own."""
    return is_widget(kind, options) and bool(options.get("control_after_generate", kind == "INT" and name in SEEDS))


def snapshot(object_info: dict[str, Definition]) -> dict[str, Any]:
    """What a saved workflow depends on, equal on every ComfyUI version."""
    return {name: _frozen(node) for name, node in ours(object_info).items()}


def _frozen(node: Definition) -> dict[str, Any]:
    inputs = [
        {
            "name": name,
            "type": kind,
            "optional": optional,
            "widget": is_widget(kind, options),
            "control": has_control(name, kind, options),
        }
        for name, kind, options, optional in inputs_of(node)
    ]
    pairs = zip(node["output_name"], node["output"], strict=True)
    return {"inputs": inputs, "outputs": [{"name": name, "type": kind} for name, kind in pairs]}


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Sentences that say which changes from one snapshot to another break saved workflows.

    Nodes, inputs and outputs keep their names, order and types for ever; what is added comes last and is optional.
    """
    found = [f"{name} is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        before, after = old[name]["inputs"], new[name]["inputs"]
        if after[: len(before)] != before:
            found.append(f"{name}: its inputs were changed, moved or removed")
        found += [f"{name}: the new input {each['name']} isn't optional" for each in _added(before, after)]
        outputs = old[name]["outputs"]
        if new[name]["outputs"][: len(outputs)] != outputs:
            found.append(f"{name}: its outputs were changed, moved or removed")
    return sorted(found)


def _added(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in after[len(before) :] if not each["optional"]]


def node_locale(object_info: dict[str, Definition]) -> dict[str, Any]:
    """locales/en/nodeDefs.json: what a translator starts from."""
    return {name: _translatable(node) for name, node in ours(object_info).items()}


def _translatable(node: Definition) -> dict[str, Any]:
    inputs = {
        name.replace(".", "_"): {"name": name, "tooltip": options.get("tooltip", "")}
        for name, _, options, _ in inputs_of(node)
    }
    rows = enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
    outputs = {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in rows}
    texts = {"display_name": node["display_name"], "description": node["description"]}
    return texts | {"inputs": inputs, "outputs": outputs}


def main_locale(object_info: dict[str, Definition]) -> dict[str, Any]:
    """locales/en/main.json: the names of the menu's categories and of the wires."""
    nodes = ours(object_info).values()
    categories = {part for node in nodes for part in node["category"].split("/")}
    wires = {kind for node in nodes for kind in [*node["output"], *(each[1] for each in inputs_of(node))]}
    names = {kind: WIRES.get(kind, kind.removeprefix("HAPAX_")) for kind in wires if kind.startswith("HAPAX_")}
    return {"nodeCategories": {name: name for name in sorted(categories)}, "dataTypes": dict(sorted(names.items()))}


def help_tables(node: Definition) -> str:
    """The generated end of a help page: what goes in and what comes out."""
    lines = [TABLES, "", "| name | type | what it is |", "| --- | --- | --- |"]
    for name, kind, options, optional in inputs_of(node):
        default = options.get("default")
        told = f" Default: {_shown(default)}." if is_widget(kind, options) and default not in (None, "") else ""
        lines.append(f"| **{name}**{' (optional)' if optional else ''} | {kind} | {options.get('tooltip', '')}{told} |")
    lines += ["", "## Outputs", "", "| name | type | what it is |", "| --- | --- | --- |"]
    rows = zip(node["output_name"], node["output"], node["output_tooltips"], strict=True)
    return "\n".join([*lines, *(f"| **{name}** | {kind} | {tooltip} |" for name, kind, tooltip in rows)]) + "\n"


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def help_page(name: str, node: Definition) -> str:
    """The help page of a node: what a person wrote, then the tables."""
    path = DOCS / f"{name}.md"
    written = path.read_text(encoding="utf-8") if path.exists() else f"# {node['display_name']}\n\n"
    return written.split(TABLES)[0] + help_tables(node)


def files(object_info: dict[str, Definition]) -> dict[Path, str]:
    """Every generated file and what it has to hold."""
    made = {
        SNAPSHOT: _json(snapshot(object_info)),
        LOCALE / "nodeDefs.json": _json(node_locale(object_info)),
        LOCALE / "main.json": _json(main_locale(object_info)),
    }
    return made | {DOCS / f"{name}.md": help_page(name, node) for name, node in ours(object_info).items()}


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _server() -> Any:
    spec = importlib.util.spec_from_file_location("server", Path(__file__).with_name("server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> int:
    """Rewrite the files from a running ComfyUI."""
    server = _server()
    with tempfile.TemporaryDirectory() as base, server.Server(server.checkouts()[0], Path(base)) as running:
        info = running.get("/object_info")
    broken = breaks(json.loads(SNAPSHOT.read_text()), snapshot(info)) if SNAPSHOT.exists() else []
    if broken and "--unreleased" not in arguments:
        print("\n".join(["This would break saved workflows:", *broken]), file=sys.stderr)
        return 2
    for path, text in files(info).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(REPO))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""JavaScript modules joined into one script, so that report.html can hold the viewer of the browser side as it is.

A bundler would need Node where reports are written. What is understood here is what our own modules use: named imports
and one default import, each on a statement of its own, from relative paths without a circle, and exported declarations.
"""

from __future__ import annotations

import re
from pathlib import Path

_IMPORT = re.compile(r'^import (?:(?P<default>\w+)|\{(?P<names>[^}]*)\}) from "(?P<path>\.[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class) (?P<name>\w+))", re.MULTILINE)
_DEFAULT = re.compile(r"^export default ", re.MULTILINE)


def joined(entry: Path) -> str:
    """Return a script that runs `entry` and the modules that it imports, each once and in a scope of its own."""
    order: dict[Path, str] = {}
    _visit(entry.resolve(), order, ())
    return '"use strict";\n' + "\n".join(order.values())


def _visit(path: Path, order: dict[Path, str], above: tuple[Path, ...]) -> None:
    if path in order:
        return
    if path in above:
        raise ValueError(f"{path.name} imports itself by way of {above[-1].name}")
    source = path.read_text("utf-8")
    for found in _IMPORT.finditer(source):
        _visit(_from(path, found), order, (*above, path))
    names = list(order)

    def bound(found: re.Match[str]) -> str:
        module = f"module{names.index(_from(path, found))}"
        if found["default"]:
            return f"const {found['default']} = {module}.default;\n"
        return f"const {{ {found['names'].strip().replace(' as ', ': ')} }} = {module};\n"

    body = _DEFAULT.sub("const whole = ", _EXPORT.sub("", _IMPORT.sub(bound, source)))
    given = [each["name"] for each in _EXPORT.finditer(source)]
    given += ["default: whole"] if _DEFAULT.search(source) else []
    if re.search(r"^(import|export)\b", body, re.MULTILINE):
        raise ValueError(f"{path.name} has an import or an export of another form than those that can be joined")
    order[path] = f"const module{len(order)} = (() => {{\n{body}return {{ {', '.join(given)} }};\n}})();"


def _from(path: Path, found: re.Match[str]) -> Path:
    return (path.parent / found["path"]).resolve()

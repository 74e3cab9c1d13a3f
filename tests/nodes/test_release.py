"""What the registry's archive holds is whole: `.comfyignore` leaves nothing out that something in it needs."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path, PurePosixPath

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shipped():
    """The files of the archive: those that git knows, less those that .comfyignore names."""
    lines = (REPO / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = [line for line in lines if line and not line.startswith("#")]
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("THE ARCHIVE WAS NOT CHECKED: this is no git checkout, so what would ship is unknown")
    known = listed.stdout.splitlines()
    return {name for name in known if not name.startswith(tuple(left_out))}


def imports(name):
    """The files or folders that a shipped file's relative imports are of, wherever in it they stand."""
    package = PurePosixPath(name).parent.parts
    for each in ast.walk(ast.parse((REPO / name).read_text(encoding="utf-8"))):
        if isinstance(each, ast.ImportFrom) and each.level:
            base = package[: len(package) - each.level + 1]
            module = (*base, *(each.module or "").split(".")) if each.module else base
            yield "/".join(module), [alias.name for alias in each.names]


def test_every_import_finds_its_file(shipped):
    for name in sorted(shipped):
        if name.endswith(".py"):
            for module, names in imports(name):
                if f"{module}.py" in shipped:
                    continue
                inside = "/".join(filter(None, (module, "__init__.py")))
                assert inside in shipped, f"{name} imports {module}, which does not ship"
                text = (REPO / inside).read_text(encoding="utf-8")
                for each in names:
                    path = "/".join(filter(None, (module, each)))
                    found = each == "__path__" or each in text or shipped & {f"{path}.py", f"{path}/__init__.py"}
                    assert found, f"{name} imports {each} of {module}, which does not ship"


def test_nothing_ships_that_only_makes_or_tests(shipped):
    assert not [name for name in shipped if name.startswith(("tests/", "benchmarks/", ".ci/", ".github/"))]
    emoji = {name.removeprefix("core/emoji/") for name in shipped if name.startswith("core/emoji/")}
    code = {name for name in emoji if name.endswith(".py")}
    assert code == {"__init__.py", "judge.py", "render.py", "world.py"}, "a script of the training ships"


def test_what_a_user_sees_ships(shipped):
    for folder in ("web/docs/", "locales/en/", "example_workflows/", "nodes/", "core/"):
        assert [name for name in shipped if name.startswith(folder)], folder
    assert {"pyproject.toml", "LICENSE", "README.md", "NOTICE", "__init__.py"} <= shipped

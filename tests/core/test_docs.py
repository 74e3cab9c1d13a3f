"""Examples in docstrings run, everything imports without ComfyUI, and sources are plain ASCII."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import hapax.core
import pytest

ROOT = Path(hapax.core.__file__).parent
MODULES = [m.name for m in pkgutil.walk_packages([str(ROOT)], "hapax.core.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert outcome.failed == 0


def test_importing_the_package_loads_neither_torch_nor_comfy() -> None:
    code = "import sys, hapax; print(sorted({'torch', 'comfy', 'diffusers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=str)
def test_sources_are_ascii(path: Path) -> None:
    assert path.read_text("utf-8").isascii()

"""What the page says in every report: trust, glossary, credits. The sentences are in words.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_WORDS = json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))

TRUST: list[tuple[str, str]] = _WORDS["trust"]
GLOSSARY: list[tuple[str, str]] = _WORDS["glossary"]


def papers(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """(what was taken, arXiv number) of the methods that this audit used."""
    used = ["raigen", "matryoshka", "decoding"]
    used += [name for name in ("invdiff", "sce") if audit.get(name)]
    return [_WORDS["papers"][name] for name in used]

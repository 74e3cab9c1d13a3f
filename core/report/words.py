"""What the page says in every report: trust, glossary, credits. The sentences are in words.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_WORDS = json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))

_MEASURED = Path(__file__).with_name("trust.json")
TRUST: list[tuple[str, str]] = _WORDS["trust"]
GLOSSARY: list[tuple[str, str]] = _WORDS["glossary"]


def measured() -> list[str]:
    """How well audits do where the truth is known, one sentence a figure; empty where that was not measured.

    trust.json holds what `benchmarks/findings.py` and `benchmarks/amplification.py` wrote: figures by name.
    """
    if not _MEASURED.is_file():
        return []
    figures = json.loads(_MEASURED.read_text("utf-8"))
    return [sentence.format(**figures) for name, sentence in _WORDS["measured"].items() if name in figures]


def papers(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """(what was taken, arXiv number) of the methods that this audit used."""
    used = ["raigen", "matryoshka", "decoding"]
    used += [name for name in ("invdiff", "sce", "compass") if audit.get(name)]
    return [_WORDS["papers"][name] for name in used]

"""Files known by what is in them, so that a workflow finds its own under any name and refuses others."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ..core.library import content_hash


def content_of(path: Path) -> str:
    """The SHA-256 of a file in hex, computed once for each state of it. Raises HapaxError if it can't be read."""
    state = path.stat()
    return _hash(path, state.st_mtime_ns, state.st_size)


def has_content(path: Path, content: str) -> bool:
    """Whether a file is the one of a hash; an empty hash stands for any."""
    content = content.strip().lower()
    return not content or content_of(path) == content


@lru_cache(maxsize=512)
def _hash(path: Path, changed: int, size: int) -> str:
    return content_hash(path)

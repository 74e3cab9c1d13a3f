"""Banks: where captions come from. A text file, CSV or JSON lines, pictures with captions beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import HapaxError
from ..labels import PHRASES
from ..picture_files import is_picture

GENERAL_BANK = PHRASES
# What a caption adds to a shorter one of the bank stands behind its last comma.
ADDED = ", "
_COLUMNS = ("caption", "text", "prompt")
_CAPTION_FILES = (".txt", ".caption")


def read_bank(path: str | Path | None = None) -> tuple[str, ...]:
    """Read captions, in order and each once.

    Args:
        path: a text file with one caption a line (lines that begin with # are notes), a .csv or .jsonl file
            with a column `caption`, `text` or `prompt`, a folder of pictures with captions beside them
            (kohya's layout: `a.png` and `a.txt` or `a.caption`), or None for the general bank that ships.

    Raises:
        HapaxError: nothing there, not text or CSV, no such column, or no caption in it.
    """
    source = GENERAL_BANK if path is None else Path(path)
    try:
        found = list(_READERS.get(source.suffix.lower(), _lines)(source) if source.is_file() else _beside(source))
    except UnicodeDecodeError as error:
        raise HapaxError(f"{source} is not UTF-8 text; save the captions as UTF-8.") from error
    except csv.Error as error:
        raise HapaxError(f"{source} can't be read as CSV ({error}); save the captions as CSV again.") from error
    except OSError as error:
        raise HapaxError(f"The captions can't be read from {source}: {error.strerror}; give a file.") from error
    captions = tuple(dict.fromkeys(caption for caption in (each.strip() for each in found) if caption))
    if not captions:
        raise HapaxError(f"{source} holds no captions; give a text, CSV or JSONL file, or pictures with .txt beside.")
    return captions


def check_captions(captions: Sequence[str]) -> tuple[str, ...]:
    """Return the captions of a bank, or raise HapaxError: fewer than two, an empty one, or one given twice."""
    if isinstance(captions, str):
        raise HapaxError(f"The bank is one text, {captions!r}; give a list of captions.")
    if len(captions) < 2:
        raise HapaxError(f"The bank has {len(captions)} captions; give at least 2, for each is told by its difference.")
    seen: set[str] = set()
    for number, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise HapaxError(f"Caption {number} of the bank is {caption!r}; give a text that is not empty.")
        if caption in seen:
            raise HapaxError(f"The caption {caption!r} is in the bank twice; give each once.")
        seen.add(caption)
    return tuple(captions)


def behind(prompts: Sequence[str], captions: Sequence[str]) -> tuple[str, ...]:
    """Each caption behind each prompt, with a comma, and the prompts themselves: a bank whose contrasts are captions.

    Without prompts the captions are the bank.

    >>> behind(["a cook"], ["line sketch", "woman"])
    ('a cook', 'a cook, line sketch', 'a cook, woman')
    """
    if not prompts:
        return tuple(captions)
    each = (text for prompt in prompts for text in (prompt, *(f"{prompt}{ADDED}{c}" for c in captions if c != prompt)))
    return tuple(dict.fromkeys(each))


def _lines(path: Path) -> Iterable[str]:
    return (line for line in path.read_text("utf-8-sig").splitlines() if not line.lstrip().startswith("#"))


def _csv(path: Path) -> Iterable[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        column = _column(path, rows.fieldnames or ())
        return [row[column] or "" for row in rows]


def _jsonl(path: Path) -> Iterable[str]:
    captions = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise HapaxError(
                f"Line {number} of {path} is not JSON ({error}); give an object or text a line."
            ) from error
        caption = row if isinstance(row, str) else row[_column(path, row)] if isinstance(row, dict) else None
        if not isinstance(caption, str):
            raise HapaxError(f"Line {number} of {path} has no text for a caption; give one object or text a line.")
        captions.append(caption)
    return captions


def _column(path: Path, names: Iterable[str]) -> str:
    names = list(names)
    for column in _COLUMNS:
        if column in names:
            return column
    found = ", ".join(names) or "none"
    raise HapaxError(
        f"{path} has the columns {found}; one must be called {', '.join(_COLUMNS[:-1])} or {_COLUMNS[-1]}."
    )


def _beside(folder: Path) -> Iterable[str]:
    """The captions of the folder's pictures, by the pictures' names."""
    pictures = sorted(file for file in folder.iterdir() if is_picture(file))
    files = [picture.with_suffix(suffix) for picture in pictures for suffix in _CAPTION_FILES]
    return [" ".join(file.read_text("utf-8-sig").split()) for file in files if file.is_file()]


_READERS = {".csv": _csv, ".jsonl": _jsonl}

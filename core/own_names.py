"""What people call the features of an audit: kept beside audit.json, which stays the evidence that it was."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path
from threading import Lock
from typing import Any

from .durable import FolderLock, write_file
from .errors import HapaxError
from .report.kinds import anchor

NAMES_FILE = "labels.json"
LONGEST = 120
_MOST_BYTES, _MOST_NAMES = 4 * 1024 * 1024, 100_000
_VERSION, _PATIENCE = 1, 10.0
_ONE_AT_A_TIME = Lock()


def load_names(folder: Path) -> dict[str, str]:
    """The names in an audit's folder, by feature id; none where nobody gave one.

    Raises HapaxError if the file is there and is not what `save_name` writes.
    """
    path = folder / NAMES_FILE
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        content: Any = json.loads(path.read_text("utf-8"))
        names = content["labels"] if content["version"] == _VERSION else None
        if not isinstance(names, dict) or not all(_fits(key, name) for key, name in names.items()):
            raise ValueError("its labels are not short texts by feature id")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise HapaxError(f"{path} is not a file of labels ({error}); delete it to start anew.") from error
    return names


def save_name(folder: Path, feature_id: str, name: str) -> dict[str, str]:
    """Call a feature something, or by its own label again if the name is empty; return all names.

    Writers wait for each other, in this process and in others, so that none undoes what another saved.

    Raises:
        HapaxError: an id or a name that can't be one, or a file that can't be read or written.
    """
    if not isinstance(name, str) or not isinstance(feature_id, str):
        raise HapaxError("A label is a text, given to a feature by its id; send both as strings.")
    name = " ".join(name.split())
    if name and not _fits(feature_id, name):
        raise HapaxError(
            f"The label has {len(name)} characters, or one that can't be shown; give one line of at most {LONGEST}."
        )
    with _ONE_AT_A_TIME:
        lock = _locked(folder)
        try:
            names = load_names(folder)
            if name:
                names[feature_id] = name
            else:
                names.pop(feature_id, None)
            if len(names) > _MOST_NAMES:
                raise HapaxError(f"There are {len(names):,} labels; at most {_MOST_NAMES:,} are kept.")
            content = {"version": _VERSION, "labels": dict(sorted(names.items()))}
            write_file(folder / NAMES_FILE, f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode())
        finally:
            lock.release()
    return names


def _locked(folder: Path) -> FolderLock:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return FolderLock(folder)
        except HapaxError:
            if time.monotonic() > end:
                raise
        time.sleep(0.02)


def _fits(feature_id: object, name: object) -> bool:
    if not anchor.accepts(feature_id) or not isinstance(name, str) or not 0 < len(name) <= LONGEST:
        return False
    # Controls, halves of surrogate pairs, and marks that turn the writing direction could fake what is shown. Words of
    # some languages, and many emoji, need the joiners.
    visible = name.replace("\u200c", "").replace("\u200d", "")
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Cf", "Zl", "Zp") for letter in visible)

"""Checking, reading and writing audit.json. Its shape is described in `shape`, its rules in `rules`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from ..durable import write_file
from ..errors import HapaxError
from .kinds import MISSING, refuse
from .rules import check_rules
from .shape import AUDIT

SCHEMA_VERSION = "1.0"


def validate(audit: dict[str, Any]) -> None:
    """Check an audit against the shape above and against itself.

    Raises:
        HapaxError: one sentence with the JSON path, what is there, and what was expected.
    """
    if not isinstance(audit, dict):
        refuse("", audit, "an audit: a JSON object")
    _check_version(audit)
    _check_plain(audit, "")
    AUDIT.check(audit, "")
    check_rules(audit)


def save_audit(audit: dict[str, Any], path: str | Path) -> Path:
    """Validate and write audit.json. Equal audits are equal files; a crash leaves the old file as it was.

    Raises:
        HapaxError: the audit is not valid, or the file can't be written; the old file stays then.
    """
    validate(audit)
    content = json.dumps(audit, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path = Path(path)
    write_file(path, f"{content}\n".encode())
    return path


def load_audit(path: str | Path) -> dict[str, Any]:
    """Read and validate audit.json.

    Raises:
        HapaxError: no such file, no JSON in it, or not a valid audit.
    """
    path = Path(path)
    try:
        audit = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise HapaxError(
            f"No audit can be read at {path} ({error.strerror}); expected the audit.json of `hapax audit`."
        ) from error
    except (ValueError, RecursionError) as error:
        raise HapaxError(f"{path} is not an audit.json: {error}; expected JSON in UTF-8.") from error
    validate(audit)
    return audit


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which JSON has no number for")


def _check_version(audit: dict[str, Any]) -> None:
    version = audit.get("schema_version", MISSING)
    major = SCHEMA_VERSION.split(".")[0]
    if not isinstance(version, str) or version.split(".")[0] != major:
        refuse("schema_version", version, f"{major}.x, the version that this Hapax reads and writes")


def _check_plain(value: Any, path: str) -> None:
    """Refuse what JSON can't hold, also under keys that the shape doesn't know."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not _is_unicode(key):
                refuse(path, key, "keys that are strings of whole Unicode characters")
            _check_plain(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{path}[{index}]")
    elif isinstance(value, str) and not _is_unicode(value):
        refuse(path, value, "a string of whole Unicode characters, without half of a surrogate pair")
    elif isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        refuse(path, value, "a finite number, or null where nothing was measured")
    elif value is not None and not isinstance(value, (str, int, float)):
        refuse(path, value, "plain JSON: an object, list, string, number, true, false or null")


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

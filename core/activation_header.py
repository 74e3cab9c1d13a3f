"""The header of an ActivationStore, `store.json`: what was recorded, and whether stores belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .activation_layout import DTYPES, Layout, whole_number
from .activation_shards import FORMAT, VERSION, Provenance
from .durable import write_file
from .errors import HapaxError

# Provenance under these keys tells a store's history; it may differ between stores that belong together.
HISTORY_KEYS = frozenset({"created", "host", "notes", "seeds", "versions"})
_ABSENT = "nothing"


class Header:
    """The content of `store.json`: version, dtype, shard size, provenance; the layout once it is known."""

    def __init__(self, folder: Path, fields: Mapping[str, Any]) -> None:
        self._folder = folder
        self.dtype: str = fields["dtype"]
        self.shard_bytes: int = fields["shard_bytes"]
        self.provenance: Provenance = dict(fields["provenance"])
        layout = fields["layout"]
        self.layout = None if layout is None else Layout.from_json(layout)

    @staticmethod
    def path(folder: Path) -> Path:
        """Where the header of the store in `folder` lies."""
        return folder / "store.json"

    @classmethod
    def create(cls, folder: Path, provenance: Mapping[str, Any], dtype: torch.dtype, shard_bytes: int) -> Header:
        """Write the header of a new store. Raises HapaxError if dtype or provenance can't be stored."""
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise HapaxError(f"tokens can't be stored as {dtype}, expected one of {', '.join(DTYPES)}")
        shard_bytes = whole_number(shard_bytes, "shard_bytes")
        if shard_bytes < 1:
            raise HapaxError(f"shard_bytes is {shard_bytes}, expected 1 or more")
        fields = {
            "dtype": name,
            "shard_bytes": shard_bytes,
            "provenance": as_json(provenance),
            "layout": None,
        }
        header = cls(folder, fields)
        header.save(None)
        return header

    @classmethod
    def read(cls, folder: Path) -> Header:
        """Read the header of the store in `folder`. Raises HapaxError if it has none that can be read."""
        path = cls.path(folder)
        try:
            fields = json.loads(path.read_bytes())
            if fields["format"] == FORMAT and fields["version"] == VERSION:
                return cls(folder, fields)
            found = f"{fields['format']} version {fields['version']}"
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HapaxError(f"{folder} holds no activation store (no {path.name}); record one first") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HapaxError(f"{path} can't be read as the header of an activation store: {error}") from error
        raise HapaxError(f"{path} is {found}, expected {FORMAT} version {VERSION}; use the Hapax that wrote it")

    def save(self, layout: Layout | None) -> None:
        """Write the header with this layout. Raises HapaxError if that fails; then nothing changed."""
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": self.dtype,
            "shard_bytes": self.shard_bytes,
            "provenance": self.provenance,
            "layout": None if layout is None else layout.to_json(),
        }
        write_file(self.path(self._folder), json.dumps(fields, indent=1).encode())
        self.layout = layout


def as_json(provenance: Mapping[str, Any]) -> Provenance:
    """Return the mapping as it will be read back from JSON. Raises HapaxError if JSON can't hold it."""
    try:
        text = json.dumps(dict(provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise HapaxError(f"the provenance must be a JSON mapping, but {error}") from error
    return json.loads(text)


def mismatch(found: Provenance, expected: Provenance, keys: Iterable[str]) -> str | None:
    """Say in which of `keys` two provenances differ, or return None."""
    differing = [key for key in sorted(keys) if found.get(key, _ABSENT) != expected.get(key, _ABSENT)]
    if not differing:
        return None
    return "; ".join(
        f"{key} is {found.get(key, _ABSENT)!r}, expected {expected.get(key, _ABSENT)!r}" for key in differing
    )


def identifying_keys(*provenances: Provenance) -> set[str]:
    """Return the keys by which stores belong together or not: all but the ones that tell history."""
    return set().union(*provenances) - HISTORY_KEYS

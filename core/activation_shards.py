"""The shard: one immutable file of pictures that says itself what it holds and whether it is intact.

A shard is a safetensors file. Its header's metadata carries a *record* (JSON: format, version, provenance,
layout, the list of pictures, the checksum of the tensors) and the record's own SHA-256, which is the
shard's id. So a shard is listed by being there: its name, place and age mean nothing. Beside it lies
`<name>.json`, a copy of the record, which is only asked when the shard itself is gone or unreadable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .activation_layout import Identity, Layout, read_identity
from .activation_picture import Picture
from .durable import free_path, place_file, write_file

FORMAT = "hapax-activations"
VERSION = 1
Provenance = dict[str, Any]


class ShardError(Exception):
    """A shard that can't be used; the message is the reason."""


@dataclass
class Shard:
    """A shard whose header was read and found in order; the tensors are checked when first asked for.

    `text` is the record, `id` its SHA-256, `samples` the captions by identity in the order of the rows.
    """

    path: Path
    text: str
    checked: bool = False

    def __post_init__(self) -> None:
        self.id = hashlib.sha256(self.text.encode()).hexdigest()
        record = json.loads(self.text)
        if (record["format"], record["version"]) != (FORMAT, VERSION):
            raise ValueError(f"{record['format']} version {record['version']}, expected {FORMAT} {VERSION}")
        self.provenance: Provenance = dict(record["provenance"])
        self.layout = Layout.from_json(record["layout"])
        self.samples: dict[Identity, str | None] = {
            read_identity({"prompt": prompt, "seed": seed}): caption for prompt, seed, caption in record["samples"]
        }
        self._tensors_sha256 = record["tensors_sha256"]

    @property
    def sidecar(self) -> Path:
        """Where the copy of the record lies."""
        return self.path.with_suffix(".json")

    def metadata(self) -> dict[str, str]:
        """Return what the header (and the sidecar) hold."""
        return {"record": self.text, "sha256": self.id}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, one row a picture, mapped from the file: memory is used for what is touched.

        The first call reads the whole shard to compare its checksum. Raises ShardError if it differs.
        """
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (OSError, SafetensorError) as error:
            raise ShardError(f"unreadable ({error})") from error
        if not self.checked:
            shapes = {name: (len(self.samples), *shape) for name, shape in self.layout.shapes().items()}
            if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
                raise ShardError("its tensors have other shapes than its layout")
            if _checksum(tensors) != self._tensors_sha256:
                raise ShardError("its content does not match its checksum")
            self.checked = True
        return tensors

    def write_sidecar(self) -> None:
        """Write the copy of the record."""
        write_file(self.sidecar, json.dumps(self.metadata()).encode())


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Unwritten:
    """Pictures in memory: the shard to be. It reads like a Shard."""

    id = ""
    path = None

    def __init__(self) -> None:
        self.samples: dict[Identity, str | None] = {}
        self.n_bytes = 0
        self._pictures: list[Picture] = []
        self._stacked: dict[str, Tensor] = {}

    def add(self, picture: Picture) -> None:
        """Take one more picture; all must have one layout."""
        self.samples[picture.identity] = picture.caption
        self.n_bytes += sum(tensor.nbytes for tensor in picture.tensors.values())
        self._pictures.append(picture)
        self._stacked = {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, one row a picture."""
        if not self._stacked:
            names = sorted(self._pictures[0].tensors)
            self._stacked = {name: torch.stack([each.tensors[name] for each in self._pictures]) for name in names}
        return self._stacked


class Place(NamedTuple):
    """Where a picture is: a row of a shard."""

    shard: Shard | Unwritten
    row: int


def write_shard(folder: Path, unwritten: Unwritten, layout: Layout, provenance: Provenance) -> Shard:
    """Write pictures as a new shard of `folder`, yet without its sidecar.

    Raises HapaxError if the disk is full or the folder can't be written; then no shard is visible.
    """
    tensors = unwritten.tensors()
    record = {
        "format": FORMAT,
        "version": VERSION,
        "provenance": provenance,
        "layout": layout.to_json(),
        "samples": [[*identity, caption] for identity, caption in unwritten.samples.items()],
        "tensors_sha256": _checksum(tensors),
    }
    shard = Shard(folder, json.dumps(record), checked=True)
    return _publish(shard, folder, lambda path: write_file(path, save(tensors, shard.metadata())))


def place_shard(shard: Shard, folder: Path) -> Shard:
    """Make a shard appear in another folder too, without rewriting it, and yet without its sidecar."""
    return _publish(shard, folder, lambda path: place_file(shard.path, path))


def _publish(shard: Shard, folder: Path, put: Callable[[Path], None]) -> Shard:
    path = folder / f"{shard.id[:16]}.safetensors"
    # An interrupt right after the renaming may have left this very shard there; don't make a duplicate.
    if not _is_intact(path, shard.id):
        path = free_path(path)
        put(path)
    return Shard(path, shard.text, shard.checked)


def _is_intact(path: Path, id: str) -> bool:
    try:
        shard = read_header(path)
        shard.tensors()
    except ShardError:
        return False
    return shard.id == id


def read_header(path: Path) -> Shard:
    """Read a shard's header. Raises ShardError."""
    try:
        with safe_open(path, "pt") as file:
            return _parse(path, file.metadata())
    except (OSError, SafetensorError) as error:
        raise ShardError(f"unreadable ({error})") from error


def read_sidecar(path: Path) -> Shard:
    """Read the shard's record from the copy beside it. Raises ShardError."""
    try:
        return _parse(path, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ShardError(f"unreadable ({error})") from error


def _parse(path: Path, metadata: object) -> Shard:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("record"), str):
        raise ShardError("not a Hapax shard")
    if hashlib.sha256(metadata["record"].encode()).hexdigest() != metadata.get("sha256"):
        raise ShardError("its table of pictures does not match its checksum")
    try:
        return Shard(path, metadata["record"])
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"not a Hapax shard ({error})") from error

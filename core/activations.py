"""ActivationStore: what was recorded, on disk; append-only, resumable, mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .activation_header import Header, as_json, identifying_keys, mismatch
from .activation_layout import (
    DTYPES,
    Identity,
    Layout,
    canonical,
    estimate_bytes,
    named,
    read_identity,
    regular_positions,
)
from .activation_picture import Picture, read_picture
from .activation_reader import ActivationReader, Sample
from .activation_scan import Damaged
from .activation_shards import Place, Shard, Unwritten, place_shard, write_shard
from .durable import FolderLock, free_path, sync_folder, writing
from .errors import HapaxError

__all__ = ["ActivationStore", "Damaged", "Sample", "estimate_bytes", "regular_positions"]


class ActivationStore(ActivationReader):
    """Tokens recorded at one site from many pictures, with thumbnails, captions and embeddings, in a folder.

    A picture is known by its (prompt, seed). All pictures have ONE grid: the same S steps, P positions and C
    channels. Whatever order or process wrote them, pictures are read in canonical order: by prompt (numbers,
    then texts), then seed. Indices mean that order.

    Pictures are gathered in memory and written as shards; a crash or `kill -9` loses at most the pictures not
    yet written, and never leaves a part of a shard, nor any picture twice. One process writes into a folder;
    several processes write a folder each and `merge`. Reading needs no lock, and maps what it reads.

    >>> import tempfile
    >>> labels = {"step": torch.tensor([0.5, 0.5]), "position": torch.tensor([0, 1])}
    >>> with ActivationStore.create(tempfile.mkdtemp(), {"site": "mid"}) as store:
    ...     store.append({"prompt": "a cat", "seed": 7}, torch.zeros(2, 4), labels)
    ...     store.append({"prompt": "a cat", "seed": 3}, torch.ones(2, 4), labels)
    ...     [sample.seed for sample in store.samples], store.tokens().shape
    ([3, 7], torch.Size([2, 1, 2, 4]))
    """

    def __init__(self, folder: Path, header: Header, lock: FolderLock | None) -> None:
        """Use `create`, `open` or `open_or_create`."""
        super().__init__(folder, header)
        self._lock = lock
        self._closed = False

    @classmethod
    def create(
        cls,
        folder: str | Path,
        provenance: Mapping[str, Any],
        *,
        dtype: torch.dtype = torch.float16,
        shard_bytes: int = 64 << 20,
    ) -> ActivationStore:
        """Make a new store in `folder` and open it for writing.

        `provenance` says what was recorded: any JSON mapping (model, site, grid, versions, seeds).
        A shard is written whenever `shard_bytes` were appended. Raises HapaxError if the folder holds a store
        already, can't be written or is being written, or if the provenance is not JSON.
        """
        folder = Path(folder)
        with writing(folder):
            (folder / "shards").mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
        try:
            if Header.path(folder).exists():
                raise HapaxError(f"{folder} holds an activation store already; open it, or choose another folder")
            return cls(folder, Header.create(folder, provenance, dtype, shard_bytes), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, folder: str | Path, expect: Mapping[str, Any] | None = None) -> ActivationStore:
        """Open the store in `folder`; its first write takes the folder's lock.

        Raises HapaxError if there is none, if it is of another version, or if its provenance differs from
        `expect` in any key of `expect`. Shards that can't be used are listed in `damaged`, not raised.
        """
        header = Header.read(Path(folder))
        wanted = as_json(expect or {})
        if differs := mismatch(header.provenance, wanted, wanted):
            raise HapaxError(f"{folder} was recorded otherwise: {differs}; choose another folder or record it anew")
        return cls(Path(folder), header, None)

    @classmethod
    def open_or_create(
        cls, folder: str | Path, provenance: Mapping[str, Any], *, dtype: torch.dtype = torch.float16
    ) -> ActivationStore:
        """Resume the store of this provenance in `folder`, or begin it. Raises as `open` and `create` do.

        A resumed store must agree in all keys but those of history (created, host, notes, seeds, versions).
        """
        if not Header.path(Path(folder)).exists():
            return cls.create(folder, provenance, dtype=dtype)
        wanted = as_json(provenance)
        return cls.open(folder, {key: wanted[key] for key in identifying_keys(wanted)})

    def close(self) -> None:
        """Write what is pending and give up the right to write. What was opened can still be read."""
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._closed = True
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, sample: Mapping[str, Any], tokens: Tensor, labels: Mapping[str, Tensor]) -> None:
        """Add one picture.

        `sample`: prompt (int or str) and seed (int); optional caption (str), thumbnail (uint8 [H, W, 3]) and
        embedding ([E]). `tokens`: [N, C], N = S * P in any order. `labels`: step (progress in [0, 1]) and
        position (cell of the token grid), [N] each. Other keys are not stored.

        Raises HapaxError if the picture is there already, holds NaN, infinity or values beyond the store's
        dtype, or differs from the store's one grid, channels, thumbnail size or embedding length; also if the
        disk is full: then the picture stays in memory, and the next write tries again.
        """
        self._begin_writing()
        identity = read_identity(sample)
        if identity in self:
            raise HapaxError(f"{self.folder} holds {named(identity)} already; append each picture once")
        self._add(read_picture(sample, tokens, labels, DTYPES[self._header.dtype]))

    def flush(self) -> None:
        """Write the pictures in memory as a shard. Raises HapaxError if that fails; then they stay there."""
        if not self._unwritten.samples:
            return
        self._begin_writing()
        shard = write_shard(self.folder / "shards", self._unwritten, self.layout, self.provenance)
        self._unwritten = Unwritten()
        self._take(shard)

    def merge(self, other: ActivationStore) -> int:
        """Add the other store's pictures that are missing here; return how many.

        The other store is left as it is; what its `damaged` lists is no part of it. Shards whose pictures are
        all new here are checked and linked (copied where the file system can't link); of others the new
        pictures are copied. May be interrupted and repeated. Raises HapaxError if the stores differ in layout
        or provenance (its history aside), or if a shard of the other proves damaged, which it names.
        """
        self._begin_writing()
        other.flush()
        keys = identifying_keys(self.provenance, other.provenance)
        if differs := mismatch(other.provenance, self.provenance, keys):
            raise HapaxError(f"{other.folder} can't be merged into {self.folder}: {differs}; keep them apart")
        n_before = len(self)
        if len(other):
            self._adopt(other.layout, str(other.folder))
        for shard in other._shards():
            new = [row for row, identity in enumerate(shard.samples) if identity not in self]
            if len(new) == len(shard.samples):
                other._read(shard)
                self._take(place_shard(shard, self.folder / "shards"))
            elif new:
                self._copy_rows(other._read(shard), shard, new)
        self.flush()
        return len(self) - n_before

    def drop_damaged(self) -> list[Identity]:
        """Move the shards that `damaged` lists to the folder `damaged`; return the pictures missing for them.

        Recording just these makes the store whole again. Call `verify` first to find damage inside shards
        that were not read yet. Raises HapaxError if the files can't be moved.
        """
        self._begin_writing()
        lost = {identity for each in self.damaged for identity in each.samples}
        aside = self.folder / "damaged"
        with writing(aside):
            aside.mkdir(exist_ok=True)
            for file in (file for each in self.damaged for file in each.files):
                file.rename(free_path(aside / file.name))
        sync_folder(aside)
        self._broken.clear()
        self._rescan()
        return sorted(lost, key=canonical)

    def _begin_writing(self) -> None:
        if self._closed:
            raise HapaxError(f"{self.folder} was closed; open it again to write")
        if self._lock is not None:
            return
        lock = FolderLock(self.folder)
        try:
            self._prepare()
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def _prepare(self) -> None:
        """Clear what a killed writer left, and take in what was written since this store was opened."""
        with writing(self.folder):
            for leftover in self.folder.rglob("*.tmp"):
                leftover.unlink()
        self._header = Header.read(self.folder)
        self._rescan()
        for shard in self._shards():
            if not shard.sidecar.exists():
                shard.write_sidecar()

    def _add(self, picture: Picture) -> None:
        self._adopt(picture.layout, named(picture.identity))
        self._places[picture.identity] = Place(self._unwritten, len(self._unwritten.samples))
        self._unwritten.add(picture)
        if self._unwritten.n_bytes >= self._header.shard_bytes:
            self.flush()

    def _take(self, shard: Shard) -> None:
        # The shard counts from here on, even if the disk turns out too full for its sidecar.
        self._register(shard)
        shard.write_sidecar()

    def _copy_rows(self, tensors: dict[str, Tensor], shard: Shard, rows: list[int]) -> None:
        identities = list(shard.samples)
        for row in rows:
            identity = identities[row]
            parts = {name: tensor[row] for name, tensor in tensors.items()}
            self._add(Picture(identity, shard.samples[identity], parts, shard.layout))

    def _adopt(self, layout: Layout, whose: str) -> None:
        """Make the first picture's layout the store's, and refuse any other from then on."""
        if len(self):
            differs = layout.difference(self.layout)
        elif layout.dtype != self._header.dtype:
            differs = f"dtype {layout.dtype} where the store has {self._header.dtype}"
        else:
            return self._header.save(layout)
        if differs:
            raise HapaxError(f"{whose} has {differs}; {self.folder} has one grid, record this to another folder")

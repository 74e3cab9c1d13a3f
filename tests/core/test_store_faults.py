"""Any sequence of recording, crashing, merging and damage: a store never gives a wrong picture silently.

What is read is what was recorded, or the shard that can't be read is named; what is missing is known to be missing;
and recording just that makes the store whole again.
"""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hapax.core.activations import ActivationStore
from hapax.core.errors import HapaxError
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

Identity = tuple[int, int]
PROVENANCE = {"site": "mid", "model": "tiny"}
GRID = {"step": torch.tensor([0.25, 0.25, 0.75, 0.75]), "position": torch.tensor([0, 5, 0, 5])}
PICTURE_BYTES = 4 * 3 * 2 + 2 * 2 * 3 + 5 * 4
IDENTITIES = st.tuples(st.integers(0, 2), st.integers(0, 30))


def truth(identity: Identity) -> dict[str, torch.Tensor]:
    """What was recorded of a picture: no two have anything in common."""
    number = 31 * identity[0] + identity[1]
    return {
        "tokens": torch.arange(12.0).view(4, 3) + 16 * number,
        "thumbnail": torch.full((2, 2, 3), number, dtype=torch.uint8),
        "embedding": torch.arange(5.0) + number,
    }


def append(store: ActivationStore, identity: Identity) -> None:
    parts = truth(identity)
    sample = {"prompt": identity[0], "seed": identity[1], "caption": f"a caption of {identity}"}
    store.append(sample | {"thumbnail": parts["thumbnail"], "embedding": parts["embedding"]}, parts["tokens"], GRID)


def assert_true(store: ActivationStore) -> None:
    """All that the store gives is what was recorded, in canonical order, no picture twice."""
    identities = [row.identity for row in store.samples]
    assert identities == sorted(set(identities))
    if not identities:
        return
    wanted = [truth(identity) for identity in identities]
    assert torch.equal(store.tokens().flatten(1, 2).float(), torch.stack([each["tokens"] for each in wanted]))
    assert torch.equal(store.thumbnails(), torch.stack([each["thumbnail"] for each in wanted]))
    assert torch.equal(store.embeddings(), torch.stack([each["embedding"] for each in wanted]))
    assert [row.caption for row in store.samples] == [f"a caption of {identity}" for identity in identities]


def rewritten(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Write a valid safetensors file with the same header entries and other content."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    save_file({name: change(tensor).contiguous() for name, tensor in tensors.items()}, path, metadata)


def flipped(path: Path, where: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)


def truncated(path: Path, where: float, bit: int) -> None:
    path.write_bytes(path.read_bytes()[: int(where * path.stat().st_size)])


def reordered(path: Path, where: float, bit: int) -> None:
    rewritten(path, lambda tensor: tensor.flip(0))


def blanked(path: Path, where: float, bit: int) -> None:
    rewritten(path, torch.zeros_like)


def grown(path: Path, where: float, bit: int) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * (1 + bit))


def emptied(path: Path, where: float, bit: int) -> None:
    path.write_bytes(b"")


def overwritten(path: Path, where: float, bit: int) -> None:
    save_file({"weight": torch.full((3,), float(bit))}, path)


def relabelled(path: Path, where: float, bit: int) -> None:
    """Another table of pictures over the same content, its own checksum left as it was."""
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    if "record" not in (metadata or {}):
        return
    record = json.loads(metadata["record"])
    record["samples"] = record["samples"][::-1]
    save_file(tensors, path, metadata | {"record": json.dumps(record)})


READABLE = (reordered, blanked, relabelled)
DAMAGES = (flipped, truncated, grown, emptied, overwritten, *READABLE)


def listed_in(path: Path) -> set[Identity]:
    """The pictures that a shard or the copy of its table tells of, if it can be read at all."""
    try:
        if path.suffix == ".json":
            metadata = json.loads(path.read_bytes())
        else:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
        return {(prompt, seed) for prompt, seed, _ in json.loads(metadata["record"])["samples"]}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return set()


class StoreUnderFire(RuleBasedStateMachine):
    """A writer, its crashes, other stores, and a disk that damages, moves and copies files."""

    @initialize(per_shard=st.integers(1, 3))
    def begin(self, per_shard: int) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.folder, self.parts = self.root / "store", 0
        options = {"shard_bytes": per_shard * PICTURE_BYTES}
        self.store: ActivationStore | None = ActivationStore.create(self.folder, PROVENANCE, **options)
        self.saved: set[Identity] = set()
        # Where a shard and its copy of the table are both gone or unreadable nobody can know what it held.
        self.unknowable: set[Identity] = set()
        self.hurt = False

    def teardown(self) -> None:
        self.store = None
        gc.collect()
        shutil.rmtree(self.root)

    def writer(self) -> ActivationStore:
        if self.store is None:
            self.store = ActivationStore.open(self.folder)
        return self.store

    def shards(self) -> list[Path]:
        return sorted((self.folder / "shards").glob("*.safetensors"))

    def note_saved(self) -> None:
        on_disk = {row.identity for row in self.writer().samples if row.shard}
        self.saved |= on_disk
        self.unknowable -= on_disk

    @rule(identity=IDENTITIES)
    def record(self, identity: Identity) -> None:
        store = self.writer()
        if identity in store:
            with pytest.raises(HapaxError, match="already"):
                append(store, identity)
        else:
            append(store, identity)
        self.note_saved()

    @rule()
    def flush(self) -> None:
        self.writer().flush()
        self.note_saved()

    @rule()
    def close(self) -> None:
        self.writer().close()
        self.note_saved()
        self.store = None

    @rule()
    def crash(self) -> None:
        """The process dies: what is in memory is lost, its lock goes with it, a part of a file may be left."""
        self.store = None
        gc.collect()
        (self.folder / "shards" / "abc.safetensors.tmp").write_bytes(b"half a shard")

    @rule(identities=st.sets(IDENTITIES, min_size=1, max_size=4), per_shard=st.integers(1, 3), damage=st.booleans())
    def merge(self, identities: set[Identity], per_shard: int, damage: bool) -> None:
        self.parts += 1
        folder = self.root / f"part-{self.parts}"
        with ActivationStore.create(folder, PROVENANCE, shard_bytes=per_shard * PICTURE_BYTES) as part:
            for identity in sorted(identities):
                append(part, identity)
        if damage:
            flipped(next((folder / "shards").glob("*.safetensors")), 0.999, 3)
        self.told(lambda: self.writer().merge(ActivationStore.open(folder)))
        self.note_saved()

    def told(self, work: Callable[[], object]) -> None:
        """Do what may fail for a damaged shard; then it is named."""
        try:
            work()
        except HapaxError as error:
            reason = str(error)
            if not any(path.name in reason for path in self.root.rglob("*.safetensors")):
                raise

    @precondition(lambda self: self.shards())
    @rule(
        data=st.data(),
        damage=st.sampled_from(DAMAGES),
        where=st.floats(0, 1, exclude_max=True),
        bit=st.integers(0, 7),
    )
    def damage(self, data: st.DataObject, damage: Callable, where: float, bit: int) -> None:
        """A file changes on disk. An open writer has mapped it; it must look anew."""
        self.drop_writer()
        path = data.draw(st.sampled_from(self.shards()))
        before = path.read_bytes()
        # What was damaged beyond reading can't be rewritten as a valid file, nor nothing be flipped.
        assume(before and (damage not in READABLE or listed_in(path)))
        damage(path, where, bit)
        self.hurt |= path.read_bytes() != before

    @precondition(lambda self: self.shards())
    @rule(data=st.data(), sidecar=st.booleans(), where=st.floats(0, 1, exclude_max=True))
    def lose(self, data: st.DataObject, sidecar: bool, where: float) -> None:
        """A shard, or the copy of its table, is deleted."""
        self.drop_writer()
        path = data.draw(st.sampled_from(self.shards()))
        path = path.with_suffix(".json") if sidecar and path.with_suffix(".json").exists() else path
        told, (known, anonymous) = listed_in(path), self.known()
        path.unlink()
        self.hurt = True
        # What nothing on disk tells of any more can't be named: only what this file told of.
        forgotten = known - self.known()[0]
        assert forgotten <= told
        self.unknowable |= forgotten | (self.saved - known if anonymous else set())

    @precondition(lambda self: self.shards())
    @rule(data=st.data(), name=st.sampled_from(("0", "copy", "zzz")))
    def duplicate(self, data: st.DataObject, name: str) -> None:
        """A shard appears twice, before or after itself in every order of names."""
        self.drop_writer()
        copy = self.folder / "shards" / f"{name}.safetensors"
        assume(not copy.exists())
        shutil.copy(data.draw(st.sampled_from(self.shards())), copy)
        self.hurt = True

    @precondition(lambda self: len(self.shards()) > 1)
    @rule(data=st.data(), with_sidecars=st.booleans())
    def swap(self, data: st.DataObject, with_sidecars: bool) -> None:
        """Two shards change names: their order on disk means nothing."""
        self.drop_writer()
        a, b = data.draw(st.permutations(self.shards()))[:2]
        for suffix in (".safetensors", ".json") if with_sidecars else (".safetensors",):
            one, two = a.with_suffix(suffix), b.with_suffix(suffix)
            if one.exists() and two.exists():
                one.rename(self.root / "aside")
                two.rename(one)
                (self.root / "aside").rename(two)
        self.hurt = True

    @precondition(lambda self: self.shards())
    @rule(identity=IDENTITIES, data=st.data())
    def intrude(self, identity: Identity, data: st.DataObject) -> None:
        """A shard of another model comes to lie among ours."""
        self.drop_writer()
        self.parts += 1
        folder = self.root / f"foreign-{self.parts}"
        with ActivationStore.create(folder, PROVENANCE | {"model": "other"}) as other:
            append(other, identity)
        for file in (folder / "shards").iterdir():
            shutil.copy(file, self.folder / "shards" / f"foreign-{self.parts}{file.suffix}")
        self.hurt = True

    @rule()
    def heal(self) -> None:
        """Drop what is damaged, record what is missing: the store is whole."""
        store = self.writer()
        store.verify()
        store.drop_damaged()
        for identity in sorted(self.saved):
            if identity not in store:
                append(store, identity)
        store.close()
        self.store, self.hurt, self.unknowable = None, False, set()
        healed = ActivationStore.open(self.folder)
        assert healed.verify() == []
        assert self.saved <= {row.identity for row in healed.samples}
        assert_true(healed)

    @invariant()
    def nothing_is_silently_wrong(self) -> None:
        """Whoever opens the folder now reads the truth, or is told which shard can't be read."""
        self.told(lambda: assert_true(ActivationStore.open(self.folder)))
        store = ActivationStore.open(self.folder)
        damaged = store.verify()
        assert_true(store)
        assert self.hurt or not damaged
        known, anonymous = self.known()
        # Where the table of a shard is unreadable in both places, the shard is named, not its pictures.
        assert anonymous or self.saved - known <= self.unknowable

    def known(self) -> tuple[set[Identity], bool]:
        """The pictures that a store has or says are missing, and whether it names a shard without its pictures."""
        store = ActivationStore.open(self.folder)
        damaged = store.verify()
        named = {identity for each in damaged for identity in each.samples}
        return named | {row.identity for row in store.samples}, any(not each.samples for each in damaged)

    def drop_writer(self) -> None:
        if self.store is not None:
            self.store.close()
            self.note_saved()
            self.store = None


TestStoreUnderFire = StoreUnderFire.TestCase
TestStoreUnderFire.settings = settings(
    max_examples=24, stateful_step_count=16, deadline=None, suppress_health_check=list(HealthCheck)
)

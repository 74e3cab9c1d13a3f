"""Shards: killed writers, full disks, every kind of damage: none is used silently, none costs more."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hapax.core import durable
from hapax.core.activations import ActivationStore
from hapax.core.errors import HapaxError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LABELS = {"step": torch.tensor([0.5, 0.5]), "position": torch.tensor([0, 1])}
PER_SHARD, N_SHARDS = 2, 4
WRITER = Path(__file__).with_name("activation_writer.py")


def tokens_of(seed):
    return torch.full((2, 3), float(seed))


def append(store, seed):
    store.append({"prompt": 0, "seed": seed}, tokens_of(seed), LABELS)


def fill(folder, seeds, provenance="here"):
    """A store of shards of PER_SHARD pictures, closed; each picture's tokens are its seed."""
    with ActivationStore.create(folder, {"site": provenance}, shard_bytes=PER_SHARD * 12) as store:
        for seed in seeds:
            append(store, seed)
    return folder


def assert_true_to_its_table(store):
    seeds = [float(row.seed) for row in store.samples]
    assert store.tokens()[:, 0, 0, 0].tolist() == seeds if seeds else True
    assert seeds == sorted(set(seeds))


def heal(store):
    """Drop what is damaged, record what is missing again, and check that the store is whole."""
    seeds = range(PER_SHARD * N_SHARDS)
    store.verify()
    missing = [seed for seed in seeds if (0, seed) not in store]
    lost = store.drop_damaged()
    assert store.damaged == []
    for seed in missing:
        append(store, seed)
    store.close()
    store = ActivationStore.open(store.folder)
    assert store.verify() == []
    assert [row.seed for row in store.samples] == list(seeds)
    assert_true_to_its_table(store)
    return [seed for _, seed in lost]


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="No fork here: that killed writers lose and double nothing is NOT tested"
)
@pytest.mark.parametrize("mode", ["random", "every"])
def test_killed_writers_lose_and_double_nothing(tmp_path, mode):
    command = [sys.executable, "-P", str(WRITER), mode, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


# Damage


def shards_of(folder):
    return sorted((folder / "shards").glob("*.safetensors"))


def seeds_in(folder, shard):
    return [row.seed for row in ActivationStore.open(folder).samples if row.shard == shard.name]


def cut(shard, where):
    data = shard.read_bytes()
    shard.write_bytes(data[: int(where * len(data))])


def flip(shard, where):
    data = bytearray(shard.read_bytes())
    data[int(where * len(data))] ^= 0x10
    shard.write_bytes(data)


def foreign(shard, where):
    elsewhere = fill(shard.parents[2] / f"elsewhere-{shard.name}", [100, 101], provenance="elsewhere")
    shutil.copy(shards_of(elsewhere)[0], shard)


def unrelated(shard, where):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, shard)


def remove(shard, where):
    shard.unlink()


DAMAGES = {
    "truncated": cut,
    "bit flipped": flip,
    "foreign": foreign,
    "unrelated": unrelated,
    "missing": remove,
}
HARMLESS = ("renamed", "duplicated", "swapped", "sidecar gone", "sidecar cut", "record flipped")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.integers(0, N_SHARDS - 1),
        st.tuples(st.sampled_from(sorted(DAMAGES)), st.floats(0, 1, exclude_max=True)),
        max_size=N_SHARDS,
    ),
    st.lists(st.tuples(st.integers(0, N_SHARDS - 1), st.sampled_from(HARMLESS)), max_size=3),
)
def test_damage_is_named_and_costs_only_itself(tmp_path_factory, damages, harmless):
    folder = fill(tmp_path_factory.mktemp("damage") / "store", range(PER_SHARD * N_SHARDS))
    shards = shards_of(folder)
    lost = {shards[k].name: seeds_in(folder, shards[k]) for k in damages}
    for k, (kind, where) in damages.items():
        DAMAGES[kind](shards[k], where)
    for k, kind in harmless:
        if k not in damages:
            do_no_harm(shards, k, kind, damages)
    store = ActivationStore.open(folder)
    store.verify()
    named = {damaged.name: [seed for _, seed in damaged.samples] for damaged in store.damaged if damaged.samples}
    assert named == lost
    assert_true_to_its_table(store)
    everything = set(range(PER_SHARD * N_SHARDS))
    assert {row.seed for row in store.samples} == everything - {seed for seeds in lost.values() for seed in seeds}
    assert heal(store) == sorted(seed for seeds in lost.values() for seed in seeds)


def do_no_harm(shards, k, kind, damages):
    shard, sidecar = shards[k], shards[k].with_suffix(".json")
    if not shard.exists():
        return
    if kind == "renamed":
        shard.rename(shard.with_name(f"renamed-{k}.safetensors"))
    elif kind == "duplicated":
        shutil.copy(shard, shard.with_name(f"copy-{k}.safetensors"))
    elif kind == "swapped":
        other = next((s for j, s in enumerate(shards) if j not in damages and j != k and s.exists()), shard)
        contents = shard.read_bytes(), other.read_bytes()
        other.write_bytes(contents[0])
        shard.write_bytes(contents[1])
    elif kind == "sidecar gone":
        sidecar.unlink(missing_ok=True)
    elif sidecar.exists():
        (cut if kind == "sidecar cut" else flip)(sidecar, 0.5)


def test_each_kind_of_damage_is_told(tmp_path):
    folder = fill(tmp_path / "store", range(10))
    shards = shards_of(folder)
    gone = seeds_in(folder, shards[3])
    foreign(shards[0], 0)
    unrelated(shards[1], 0)
    cut(shards[2], 0.9)
    remove(shards[3], 0)
    shutil.copy(shards[4], folder / "shards" / "zz.safetensors")
    store = ActivationStore.open(folder)
    reasons = {damaged.name: damaged.reason for damaged in store.damaged}
    assert reasons.keys() == {shard.name for shard in shards[:4]} | {"zz.safetensors"}
    assert reasons[shards[0].name] == "foreign: site is 'elsewhere', expected 'here'"
    assert reasons[shards[1].name] == "not a Hapax shard"
    assert reasons[shards[2].name].startswith("unreadable (")
    assert reasons[shards[3].name] == "missing"
    assert reasons["zz.safetensors"] == f"a duplicate: {shards[4].name} holds pictures of it"
    assert next(each.samples for each in store.damaged if each.reason == "missing") == tuple((0, s) for s in gone)


def test_a_lost_shard_that_was_made_again_is_forgotten(tmp_path):
    folder = fill(tmp_path / "store", range(4))
    shard = shards_of(folder)[0]
    lost = seeds_in(folder, shard)
    remove(shard, 0)
    with ActivationStore.open(folder) as store:
        for seed in reversed(lost):
            append(store, seed)
    assert ActivationStore.open(folder).damaged == []


def test_pictures_of_two_shards_that_overlap_come_once(tmp_path):
    folder = fill(tmp_path / "store", [0, 1])
    other = fill(tmp_path / "other", [1, 2])
    shutil.copy(shards_of(other)[0], folder / "shards")
    store = ActivationStore.open(folder)
    assert_true_to_its_table(store)
    assert len(store) == 2
    assert len(store.damaged) == 1
    assert len(store.drop_damaged()) == 1


def test_every_single_byte_counts(tmp_path):
    folder = fill(tmp_path / "store", [0, 1])
    (shard,) = shards_of(folder)
    whole = shard.read_bytes()
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 1
        shard.write_bytes(data)
        store = ActivationStore.open(folder)
        if store.verify():
            assert [seed for damaged in store.damaged for _, seed in damaged.samples] == [0, 1]
            assert len(store) == 0
        else:  # the checksums leave out only spaces and names' order in the header
            assert_true_to_its_table(store)
            assert len(store) == 2


def test_damage_inside_is_found_when_read_and_named(tmp_path):
    folder = fill(tmp_path / "store", range(PER_SHARD * N_SHARDS))
    shard = shards_of(folder)[1]
    seeds = seeds_in(folder, shard)
    flip(shard, 0.999)
    for read in (lambda s: s.tokens(), lambda s: s.tokens([row.seed for row in s.samples].index(seeds[0]))):
        store = ActivationStore.open(folder)
        assert store.damaged == []
        with pytest.raises(HapaxError, match=f"{shard.name}.*checksum.*drop_damaged"):
            read(store)
        assert [(each.name, [seed for _, seed in each.samples]) for each in store.damaged] == [(shard.name, seeds)]
        assert_true_to_its_table(store)
    store = ActivationStore.open(folder)
    with pytest.raises(HapaxError, match=shard.name):
        list(store.batches(4, seed=0))
    assert heal(store) == seeds
    moved = {path.name for path in (folder / "damaged").iterdir()}
    assert moved == {shard.name, shard.with_suffix(".json").name}


def test_copies_of_a_damaged_shard_are_compared_too(tmp_path):
    folder = fill(tmp_path / "store", range(2 * PER_SHARD))
    shard = shards_of(folder)[0]
    seeds = seeds_in(folder, shard)
    flip(shard, 0.999)
    for name in ("0", "copy", "zzz"):
        shutil.copy(shard, shard.with_stem(name))
    store = ActivationStore.open(folder)
    assert {each.name for each in store.verify()} == {
        shard.name,
        "0.safetensors",
        "copy.safetensors",
        "zzz.safetensors",
    }
    assert_true_to_its_table(store)
    assert len(store) == PER_SHARD
    assert sorted(heal(store)) == sorted(seeds)


def test_pictures_recorded_again_beside_the_damaged_shard_count(tmp_path):
    folder = fill(tmp_path / "store", [0, 1])
    flip(shards_of(folder)[0], 0.999)
    store = ActivationStore.open(folder)
    store.verify()
    append(store, 0)
    append(store, 1)
    assert store.verify()[0].samples == ()
    assert_true_to_its_table(store)
    assert store.drop_damaged() == []
    assert len(store) == 2


def test_merge_refuses_a_damaged_shard_by_name(tmp_path):
    folder = fill(tmp_path / "from", [0, 1])
    flip(shards_of(folder)[0], 0.999)
    with ActivationStore.create(tmp_path / "to", {"site": "here"}) as store:
        with pytest.raises(HapaxError, match=shards_of(folder)[0].name):
            store.merge(ActivationStore.open(folder))
        assert len(store) == 0
    assert shards_of(tmp_path / "to") == []


def test_an_interrupt_after_the_renaming_makes_no_duplicate(tmp_path, monkeypatch):
    store = ActivationStore.create(tmp_path / "store", {"site": "here"})
    append(store, 0)

    def interrupted(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.flush()
    store.close()
    assert len(shards_of(store.folder)) == 1
    assert ActivationStore.open(store.folder).damaged == []


# A disk that can't take it


@pytest.mark.parametrize(("call", "number"), [("fsync", 0), ("replace", 0), ("fsync", 2), ("replace", 1)])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch, call, number):
    store = ActivationStore.create(tmp_path / "store", {"site": "here"})
    append(store, 0)
    store.flush()
    append(store, 1)
    before = shards_of(store.folder)
    calls = iter(range(number))
    real = getattr(os, call)

    def failing(*arguments):
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(HapaxError, match=r"no space left for .*MB are needed and") as refusal:
            store.flush()
    sidecar = ".json" in str(refusal.value)
    assert len(shards_of(store.folder)) - len(before) == (1 if sidecar else 0)
    assert not list(store.folder.rglob("*.tmp"))
    assert_true_to_its_table(store)
    store.close()
    again = ActivationStore.open(store.folder)
    assert [row.seed for row in again.samples] == [0, 1]
    assert again.verify() == []


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 1 MB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs; the test above makes the system calls fail instead")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk(small_disk):
    labels = {"step": torch.full((64,), 0.5), "position": torch.arange(64)}
    store = ActivationStore.create(small_disk / "store", {"site": "here"}, shard_bytes=200_000)
    refused = r"no space left for .*: 0\.2 MB are needed and 0\.\d MB are free"

    def fill_up():
        for seed in range(200):
            store.append({"prompt": 0, "seed": seed}, torch.full((64, 128), float(seed)), labels)

    with pytest.raises(HapaxError, match=refused):
        fill_up()
    kept = ActivationStore.open(store.folder)
    assert kept.verify() == []
    assert 0 < len(kept) < len(store)
    assert not list(store.folder.rglob("*.tmp"))
    assert_true_to_its_table(kept)
    with pytest.raises(HapaxError, match="no space left"):
        store.close()


def test_folders_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HapaxError, match=r"can't write .*file.*choose a folder"):
        ActivationStore.create(tmp_path / "file" / "store", {"site": "here"})


def test_merge_copies_where_it_cannot_link(tmp_path, monkeypatch):
    folder = fill(tmp_path / "from", range(4))

    def refused(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    with ActivationStore.create(tmp_path / "to", {"site": "here"}) as store:
        assert store.merge(ActivationStore.open(folder)) == 4
    shutil.rmtree(folder)
    copied = ActivationStore.open(tmp_path / "to")
    assert copied.verify() == []
    assert_true_to_its_table(copied)

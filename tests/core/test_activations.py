"""ActivationStore: what goes in comes out in canonical order, whoever wrote it; misfits are refused."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hapax.core.activations import ActivationStore
from hapax.core.errors import HapaxError

PROVENANCE = {
    "model": "sha256:0a1b",
    "site": "mid",
    "channels": 6,
    "versions": {"torch": "2"},
    "seeds": [0, 99],
}
STEPS, POSITIONS, CHANNELS = 3, 4, 6
LABELS = {
    "step": torch.tensor([0.2, 0.5, 0.9]).repeat_interleave(POSITIONS),
    "position": torch.tensor([5, 7, 13, 15]).repeat(STEPS),
}


def sample(prompt, seed, **more):
    return {"prompt": prompt, "seed": seed, **more}


def tokens_of(prompt, seed):
    """Tokens [S * P, C] that tell which picture, step, position and channel they belong to; exact in fp16."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{prompt} {seed}".encode()))
    return torch.randint(-1000, 1000, (STEPS * POSITIONS, CHANNELS), generator=generator).float()


def append(store, prompt, seed, **more):
    store.append(sample(prompt, seed, **more), tokens_of(prompt, seed), LABELS)


def filled(folder, identities, **options):
    store = ActivationStore.create(folder, PROVENANCE, **options)
    for prompt, seed in identities:
        append(store, prompt, seed)
    store.close()
    return ActivationStore.open(folder)


def expected(store):
    grid = (STEPS, POSITIONS, CHANNELS)
    return torch.stack([tokens_of(*row.identity).view(grid) for row in store.samples])


def identities_of(store):
    return [row.identity for row in store.samples]


def test_what_goes_in_comes_out(tmp_path):
    thumbnail = torch.randint(0, 256, (8, 9, 3), dtype=torch.uint8)
    embedding = torch.randn(16)
    with ActivationStore.create(tmp_path, PROVENANCE) as store:
        append(store, "a cat", 1, caption="a \u00dcber cat", thumbnail=thumbnail, embedding=embedding)
        append(store, "a cat", 0, thumbnail=thumbnail.flip(0).numpy(), embedding=-embedding.numpy())
    store = ActivationStore.open(tmp_path)
    assert store.provenance == PROVENANCE
    assert [(row.prompt, row.seed, row.caption) for row in store.samples] == [
        ("a cat", 0, None),
        ("a cat", 1, "a \u00dcber cat"),
    ]
    assert all((tmp_path / "shards" / row.shard).is_file() for row in store.samples)
    assert store.tokens().dtype == torch.float16
    assert torch.equal(store.tokens().float(), expected(store))
    assert torch.equal(store.embeddings(), torch.stack([-embedding, embedding]))
    assert torch.equal(store.thumbnails([1, 0]), torch.stack([thumbnail, thumbnail.flip(0)]))
    torch.testing.assert_close(store.steps, torch.tensor([0.2, 0.5, 0.9]).double(), rtol=0, atol=1e-7)
    assert store.positions.tolist() == [5, 7, 13, 15]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_the_stores(tmp_path, dtype):
    values = torch.randn(STEPS * POSITIONS, CHANNELS)
    with ActivationStore.create(tmp_path, PROVENANCE, dtype=dtype) as store:
        store.append(sample(0, 0), values, LABELS)
    read = ActivationStore.open(tmp_path).tokens()
    assert torch.equal(read.view(-1, CHANNELS), values.to(dtype))


def test_order_and_writers_do_not_matter(tmp_path):
    identities = [(p, s) for p in ("b", "a", 10, 2) for s in (3, 1, 2)]
    one = filled(tmp_path / "one", identities, shard_bytes=1)
    other = filled(tmp_path / "other", identities[::-1])
    wanted = [(p, s) for p in (2, 10, "a", "b") for s in (1, 2, 3)]
    assert identities_of(one) == identities_of(other) == wanted
    assert torch.equal(one.tokens(), other.tokens())
    assert len(list((tmp_path / "one/shards").glob("*.safetensors"))) == len(identities)


def test_rows_of_a_picture_may_come_in_any_order(tmp_path):
    shuffle = torch.randperm(STEPS * POSITIONS)
    with ActivationStore.create(tmp_path, PROVENANCE) as store:
        append(store, 0, 0)
        shuffled = {name: label[shuffle] for name, label in LABELS.items()}
        store.append(sample(0, 1), tokens_of(0, 1)[shuffle], shuffled)
    assert torch.equal(store.tokens().float(), expected(store))


@pytest.mark.parametrize(
    "picked",
    [
        {"samples": [3, 0, 3]},
        {"samples": -1},
        {"samples": torch.tensor([2, 1])},
        {"samples": slice(None, None, -2)},
        {"steps": [-1]},
        {"steps": [2, 0], "positions": slice(1, 3)},
        {"samples": [1], "steps": 0, "positions": np.array([3, 3])},
        {"samples": []},
    ],
)
def test_access_equals_indexing_of_the_whole(tmp_path, picked):
    store = filled(tmp_path, [(0, seed) for seed in range(4)], shard_bytes=300)
    wanted = expected(store)
    for axis, name in enumerate(("samples", "steps", "positions")):
        choice = picked.get(name, slice(None))
        numbers = torch.arange(wanted.shape[axis]).numpy()[choice]
        wanted = wanted.index_select(axis, torch.tensor(numbers.reshape(-1).copy()))
    assert torch.equal(store.tokens(**picked).float(), wanted)


@pytest.mark.parametrize("picked", [{"samples": 4}, {"samples": [-5]}, {"steps": [3]}, {"positions": [0.5]}])
def test_bad_indices_are_refused(tmp_path, picked):
    store = filled(tmp_path, [(0, seed) for seed in range(4)])
    with pytest.raises(HapaxError, match=r"there is no (picture|step)|index is 0\.5"):
        store.tokens(**picked)


def test_pictures_in_memory_are_read_too_without_writing(tmp_path):
    with ActivationStore.create(tmp_path, PROVENANCE, shard_bytes=400) as store:
        for seed in (5, 1, 3, 2):
            append(store, 0, seed)
            assert torch.equal(store.tokens().float(), expected(store))
        n_files = len(list((tmp_path / "shards").iterdir()))
        assert {row.shard is None for row in store.samples} == {True, False}
        assert torch.equal(torch.cat(list(store.batches(7, seed=0))).sum(), expected(store).sum())
        assert len(list((tmp_path / "shards").iterdir())) == n_files
        assert len(store) == 4
        assert (0, 5) in store
        assert (0, 4) not in store


def test_the_caller_may_reuse_its_tensors(tmp_path):
    tokens = tokens_of(0, 0).half()
    with ActivationStore.create(tmp_path, PROVENANCE) as store:
        store.append(sample(0, 0), tokens, LABELS)
        tokens.zero_()
    assert torch.equal(store.tokens().float(), expected(store))


def without(name):
    return {key: value for key, value in LABELS.items() if key != name}


OK = torch.zeros(STEPS * POSITIONS, CHANNELS)
REFUSED = {
    "seed is text": (sample(0, "abc"), OK, LABELS, "'abc', expected a whole number"),
    "seed is a fraction": (sample(0, 1.5), OK, LABELS, "1.5, expected a whole number"),
    "seed is a boolean": (sample(0, True), OK, LABELS, "True, expected a whole number"),
    "no seed": ({"prompt": 0}, OK, LABELS, "has no seed"),
    "prompt is None": (sample(None, 0), OK, LABELS, "None, expected a whole number"),
    "caption is a number": (sample(0, 0, caption=3), OK, LABELS, "expected text"),
    "NaN": (sample("p", 42), OK + torch.nan, LABELS, r"prompt 'p', seed 42.*NaN or infinity"),
    "infinity": (sample(0, 0), OK + torch.inf, LABELS, "NaN or infinity"),
    "beyond fp16": (sample("p", 42), OK + 7e4, LABELS, r"prompt 'p', seed 42.*7e\+04.*6.55e\+04.*float32"),
    "whole numbers": (sample(0, 0), OK.long(), LABELS, "expected floats"),
    "no batch axis": (sample(0, 0), OK[0], LABELS, "expected floats"),
    "no tokens": (sample(0, 0), OK[:0], {k: v[:0] for k, v in LABELS.items()}, "expected floats"),
    "no step": (sample(0, 0), OK, without("step"), "no label 'step'"),
    "label too short": (sample(0, 0), OK, {**LABELS, "step": LABELS["step"][1:]}, r"\[11\], expected \[12\]"),
    "step of an index": (sample(0, 0), OK, {**LABELS, "step": LABELS["step"] * 50}, "from 0 to 1"),
    "step NaN": (sample(0, 0), OK, {**LABELS, "step": LABELS["step"] * torch.nan}, "from 0 to 1"),
    "negative position": (sample(0, 0), OK, {**LABELS, "position": LABELS["position"] - 9}, "from 0 on"),
    "float position": (sample(0, 0), OK, {**LABELS, "position": LABELS["position"] + 0.5}, "from 0 on"),
    "irregular": (sample(0, 0), OK[1:], {k: v[1:] for k, v in LABELS.items()}, "one regular grid"),
    "thumbnail of floats": (sample(0, 0, thumbnail=torch.rand(4, 4, 3)), OK, LABELS, "uint8"),
    "thumbnail, channels first": (sample(0, 0, thumbnail=OK.byte().view(3, 4, 6)), OK, LABELS, "uint8"),
    "embedding NaN": (sample(0, 0, embedding=torch.tensor([torch.nan])), OK, LABELS, "finite vector"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_pictures_are_refused_and_leave_nothing(tmp_path, case):
    what, tokens, labels, message = REFUSED[case]
    with ActivationStore.create(tmp_path, PROVENANCE) as store:
        with pytest.raises(HapaxError, match=message):
            store.append(what, tokens, labels)
        assert len(store) == 0
        append(store, 0, 0)
    assert torch.equal(ActivationStore.open(tmp_path).tokens().float(), expected(store))


def test_numpy_and_tensor_numbers_are_numbers(tmp_path):
    with ActivationStore.create(tmp_path, PROVENANCE) as store:
        store.append(sample(np.int64(3), torch.tensor(4)), tokens_of(3, 4), LABELS)
    assert identities_of(ActivationStore.open(tmp_path)) == [(3, 4)]


def test_a_picture_comes_once(tmp_path):
    store = filled(tmp_path, [(0, 0)])
    append(store, 0, 1)
    for seed in (0, 1):
        with pytest.raises(HapaxError, match=f"prompt 0, seed {seed}. already"):
            append(store, 0, seed)
    append(store, "0", 0)
    assert len(store) == 3


@pytest.mark.parametrize(
    ("more", "tokens", "labels", "message"),
    [
        ({}, OK, {**LABELS, "step": LABELS["step"] * 0.5}, "steps"),
        (
            {},
            OK,
            {**LABELS, "position": LABELS["position"] + 1},
            r"positions \(6, 8, 14, 16\) where the store",
        ),
        ({}, OK[:4], {k: v[:4] for k, v in LABELS.items()}, "steps"),
        ({}, OK[:, :5], LABELS, "channels 5 where the store has 6"),
        ({"thumbnail": torch.zeros(2, 2, 3, dtype=torch.uint8)}, OK, LABELS, "thumbnail"),
        ({"embedding": torch.zeros(3)}, OK, LABELS, "embedding 3 where the store has None"),
    ],
)
def test_a_store_has_one_grid(tmp_path, more, tokens, labels, message):
    store = filled(tmp_path, [(0, 0)])
    with pytest.raises(HapaxError, match=f"{message}.*one grid"):
        store.append(sample(0, 1, **more), tokens, labels)
    assert len(store) == 1


def test_steps_that_differ_by_rounding_are_the_same(tmp_path):
    store = filled(tmp_path, [(0, 0)])
    store.append(sample(0, 1), OK, {**LABELS, "step": LABELS["step"].double() + 1e-7})
    assert len(store) == 2


def test_extras_that_were_not_recorded_are_named(tmp_path):
    store = filled(tmp_path / "a", [(0, 0)])
    with pytest.raises(HapaxError, match="without embeddings"):
        store.embeddings()
    with pytest.raises(HapaxError, match="no pictures yet"):
        ActivationStore.create(tmp_path / "b", PROVENANCE).tokens()


# Provenance


def test_other_provenance_is_refused_with_found_and_expected(tmp_path):
    filled(tmp_path, [(0, 0)])
    assert len(ActivationStore.open(tmp_path, expect={"site": "mid", "versions": {"torch": "2"}})) == 1
    with pytest.raises(HapaxError, match="site is 'mid', expected 'eps'; choose"):
        ActivationStore.open(tmp_path, expect={**PROVENANCE, "site": "eps"})
    with pytest.raises(HapaxError, match="guidance is 'nothing', expected 7"):
        ActivationStore.open(tmp_path, expect={"guidance": 7})


def test_resuming_heeds_what_matters(tmp_path):
    with ActivationStore.open_or_create(tmp_path, PROVENANCE) as store:
        append(store, 0, 0)
    later = {**PROVENANCE, "versions": {"torch": "3"}, "seeds": [100, 199]}
    with ActivationStore.open_or_create(tmp_path, later) as store:
        assert (0, 0) in store
    with pytest.raises(HapaxError, match=r"model is 'sha256:0a1b', expected 'sha256:ffff'"):
        ActivationStore.open_or_create(tmp_path, {**PROVENANCE, "model": "sha256:ffff"})


@pytest.mark.parametrize("bad", [{"model": object()}, {"guidance": float("nan")}])
def test_provenance_must_be_json(tmp_path, bad):
    with pytest.raises(HapaxError, match="JSON"):
        ActivationStore.create(tmp_path, bad)


@pytest.mark.parametrize("bad", [{"dtype": torch.int8}, {"shard_bytes": 0}, {"shard_bytes": 1.5}])
def test_bad_options_are_refused(tmp_path, bad):
    with pytest.raises(HapaxError, match="expected"):
        ActivationStore.create(tmp_path, PROVENANCE, **bad)
    assert not list(tmp_path.glob("*.json"))


def test_folders_without_a_store_are_named(tmp_path):
    with pytest.raises(HapaxError, match="no activation store"):
        ActivationStore.open(tmp_path)
    filled(tmp_path, [(0, 0)])
    with pytest.raises(HapaxError, match="already; open it"):
        ActivationStore.create(tmp_path, PROVENANCE)
    header = tmp_path / "store.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(HapaxError, match="version 2, expected hapax-activations version 1"):
        ActivationStore.open(tmp_path)
    header.write_text("{")
    with pytest.raises(HapaxError, match="can't be read"):
        ActivationStore.open(tmp_path)


# Merging


def test_merge_is_the_union_and_idempotent(tmp_path):
    one = filled(tmp_path / "one", [(0, s) for s in range(5)], shard_bytes=400)
    two = filled(tmp_path / "two", [(0, s) for s in range(3, 9)] + [("x", 0)], shard_bytes=400)
    assert one.merge(two) == 5
    assert one.merge(two) == one.merge(one) == 0
    one.close()
    for store in (one, ActivationStore.open(tmp_path / "one")):
        assert identities_of(store) == [(0, s) for s in range(9)] + [("x", 0)]
        assert torch.equal(store.tokens().float(), expected(store))
        assert store.damaged == []
    assert len(ActivationStore.open(tmp_path / "two")) == 7


def test_many_small_stores_merge_into_a_new_one(tmp_path):
    parts = [filled(tmp_path / str(rank), [(0, s) for s in range(rank, 12, 3)]) for rank in range(3)]
    with ActivationStore.create(tmp_path / "all", {**PROVENANCE, "seeds": "all"}) as store:
        for part in parts:
            store.merge(part)
    whole = filled(tmp_path / "whole", [(0, s) for s in range(12)])
    assert torch.equal(ActivationStore.open(tmp_path / "all").tokens(), whole.tokens())


def test_merge_takes_what_the_other_has_in_memory(tmp_path):
    with ActivationStore.create(tmp_path / "one", PROVENANCE) as one:
        append(one, 0, 0)
        with ActivationStore.create(tmp_path / "two", PROVENANCE) as two:
            append(two, 0, 1)
            assert one.merge(two) == 1
    assert identities_of(ActivationStore.open(tmp_path / "one")) == [(0, 0), (0, 1)]


def test_merge_refuses_what_does_not_belong(tmp_path):
    one = filled(tmp_path / "one", [(0, 0)])
    with ActivationStore.create(tmp_path / "two", {**PROVENANCE, "site": "eps"}) as two:
        append(two, 0, 1)
    with pytest.raises(HapaxError, match="site is 'eps', expected 'mid'; keep them apart"):
        one.merge(two)
    with ActivationStore.create(tmp_path / "three", PROVENANCE) as three:
        three.append(sample(0, 1), OK[:, :2], LABELS)
    with pytest.raises(HapaxError, match="channels 2"):
        one.merge(three)
    with (
        ActivationStore.create(tmp_path / "four", PROVENANCE, dtype=torch.float32) as four,
        pytest.raises(HapaxError, match="dtype float16 where the store has float32"),
    ):
        four.merge(one)
    assert len(one) == 1


# The lock


def test_two_writers_do_not_share_a_folder(tmp_path):
    store = filled(tmp_path, [(0, 0)])
    append(store, 0, 1)
    second = ActivationStore.open(tmp_path)
    with pytest.raises(HapaxError, match=f"is being written by process {os.getpid()} on"):
        append(second, 0, 2)
    with pytest.raises(HapaxError, match="is being written"):
        ActivationStore.create(tmp_path, PROVENANCE)
    store.close()
    append(second, 0, 2)
    assert identities_of(second) == [(0, 0), (0, 1), (0, 2)], "what came in between is seen"
    with pytest.raises(HapaxError, match="was closed"):
        append(store, 0, 3)


def test_the_lock_of_another_process_counts_and_dies_with_it(tmp_path):
    filled(tmp_path, [(0, 0)])
    code = (
        "import sys, pathlib; from hapax.core.durable import FolderLock\n"
        "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HapaxError, match=f"process {holder.pid} on"):
            append(ActivationStore.open(tmp_path), 0, 1)
        holder.kill()
    with ActivationStore.open(tmp_path) as store:
        append(store, 0, 1)


def test_a_store_that_is_forgotten_gives_its_lock_back(tmp_path):
    store = filled(tmp_path, [(0, 0)])
    append(store, 0, 1)
    del store
    gc.collect()
    with ActivationStore.open(tmp_path) as store:
        append(store, 0, 1)

"""The mixing reader: every token once, many pictures a batch, held-out pictures never, memory bounded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hapax.core.activations import ActivationStore
from hapax.core.errors import HapaxError

STEPS, POSITIONS = 2, 8
PER_PICTURE = STEPS * POSITIONS
LABELS = {
    "step": torch.tensor([0.2, 0.9]).repeat_interleave(POSITIONS),
    "position": torch.arange(POSITIONS).repeat(STEPS),
}


def fill(folder, n_pictures, per_shard, order=None):
    """A store whose tokens [picture, index in the picture] tell where they are from; exact in fp16."""
    index = torch.arange(PER_PICTURE).float()
    with ActivationStore.create(folder, {}, shard_bytes=per_shard * PER_PICTURE * 4) as store:
        for seed in order or range(n_pictures):
            tokens = torch.stack([torch.full((PER_PICTURE,), float(seed)), index], 1)
            store.append({"prompt": 0, "seed": seed}, tokens, LABELS)
    return ActivationStore.open(folder)


def keys(batches):
    tokens = torch.cat(list(batches)).long()
    return (tokens[:, 0] * PER_PICTURE + tokens[:, 1]).tolist()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("batches"), 200, per_shard=9)


@pytest.mark.parametrize("buffer", [1, 33, 500, 3200, 10_000])
@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_every_token_comes_once_an_epoch(store, buffer, batch_size):
    batches = list(store.batches(batch_size, seed=1, epochs=2, buffer=buffer))
    assert {batch.dtype for batch in batches} == {torch.float32}
    assert {len(batch) for batch in batches[:-1]} == {batch_size}
    assert len(batches[-1]) == (2 * 3200 - 1) % batch_size + 1
    seen = keys(batches)
    assert sorted(seen[:3200]) == sorted(seen[3200:]) == list(range(3200))
    assert buffer == 1 or seen[:3200] != seen[3200:]


def test_a_batch_mixes_many_pictures(store):
    """With all in the buffer a batch of B tokens is a random draw: of n pictures n(1 - (1 - 1/n)^B)."""
    for buffer, pictures_in_it in ((3200, 200), (800, 50)):
        batches = list(store.batches(200, seed=3, buffer=buffer))
        distinct = [len(batch[:, 0].unique()) for batch in batches]
        drawn = pictures_in_it * (1 - (1 - 1 / pictures_in_it) ** 200)
        assert min(distinct) >= 0.85 * drawn, (buffer, distinct)
        if buffer == 3200:
            assert abs(sum(distinct) / len(distinct) - drawn) < 4


def test_places_in_the_epoch_are_uniform(store):
    """Over many seeds a token's place has the mean and spread of a uniform permutation."""
    places = torch.empty(60, 3200)
    for seed in range(60):
        places[seed, keys(store.batches(400, seed=seed, buffer=3200))] = torch.arange(3200.0)
    assert abs(float(places.std()) / 3200 - 12**-0.5) < 0.002
    deviation = (places.mean(0) - 1599.5) / (3200 / (12 * 60) ** 0.5)
    assert abs(float(deviation.std()) - 1) < 0.1
    assert float(deviation.abs().max()) < 5


def test_same_seed_same_batches(store):
    for buffer in (300, 5000):
        first = keys(store.batches(64, seed=5, buffer=buffer))
        assert first == keys(store.batches(64, seed=5, buffer=buffer))
        assert first != keys(store.batches(64, seed=6, buffer=buffer))
    assert keys(store.batches(64, seed=-1)) != keys(store.batches(64, seed=2**80))


def test_shards_do_not_matter_when_all_fits(store, tmp_path):
    other = fill(tmp_path / "other", 200, per_shard=50, order=list(range(199, -1, -1)))
    options = {"seed": 2, "epochs": 2, "held_out": 0.2, "buffer": 3200}
    assert keys(store.batches(128, **options)) == keys(other.batches(128, **options))


def test_held_out_pictures_are_never_trained_on(store):
    for seed in range(5):
        train, held_out = store.split(0.2, seed)
        assert sorted(train + held_out) == list(range(200))
        assert abs(len(held_out) - 40) < 4 * (200 * 0.2 * 0.8) ** 0.5
        for part, indices in (("train", train), ("held_out", held_out)):
            for buffer in (100, 5000):
                seen = keys(store.batches(64, seed=seed, held_out=0.2, part=part, buffer=buffer))
                assert sorted(seen) == [i * PER_PICTURE + k for i in indices for k in range(PER_PICTURE)]
    assert store.split(0.2, 0) != store.split(0.2, 1)
    assert store.split(None, 0) == (list(range(200)), [])


def test_new_pictures_move_no_old_ones(store, tmp_path):
    small = fill(tmp_path / "small", 0, per_shard=7, order=list(range(0, 200, 3)))
    held_out = {store.samples[index].seed for index in store.split(0.3, 4)[1]}
    assert {small.samples[index].seed for index in small.split(0.3, 4)[1]} == held_out & set(range(0, 200, 3))


@pytest.mark.parametrize("buffer", [200, 5000])
def test_ranks_share_out_the_pictures(store, buffer):
    parts = [keys(store.batches(64, seed=1, held_out=0.2, rank=rank, world=3, buffer=buffer)) for rank in range(3)]
    pictures = [{key // PER_PICTURE for key in part} for part in parts]
    assert len(set.union(*pictures)) == sum(map(len, pictures))
    assert sorted([*parts[0], *parts[1], *parts[2]]) == sorted(keys(store.batches(64, seed=1, held_out=0.2)))
    assert max(map(len, pictures)) - min(map(len, pictures)) <= 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seed": "abc"}, "'abc', expected a whole number"),
        ({"seed": 1.5}, "1.5, expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"buffer": 2.5}, "buffer is 2.5"),
        ({"part": "test"}, "part='test'"),
        ({"rank": 2, "world": 2}, "rank=2"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"held_out": "some"}, "held_out is 'some'"),
        ({"part": "held_out"}, "is empty"),
        ({"rank": 300, "world": 400}, "is empty"),
    ],
)
def test_bad_arguments_are_refused_at_once(store, bad, message):
    with pytest.raises(HapaxError, match=message):
        store.batches(**{"batch_size": 4, "seed": 0, **bad})


MEMORY = """
import sys, torch
from hapax.core.activations import ActivationStore

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

labels = {"step": torch.full((256,), 0.5), "position": torch.arange(256)}
with ActivationStore.create(sys.argv[1], {}, shard_bytes=2 << 20) as store:
    for seed in range(400):
        store.append({"prompt": 0, "seed": seed}, torch.full((256, 512), float(seed)), labels)
store = ActivationStore.open(sys.argv[1])
next(store.batches(512, seed=0, buffer=512))
before, peak, tokens = resident(), 0.0, 0
for batch in store.batches(512, seed=0, buffer=8192):
    tokens += len(batch)
    peak = max(peak, resident())
for index in range(0, 400, 40):
    assert float(store.tokens(index, positions=[3])[0, 0, 0, 0]) == index
print(tokens, peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="No /proc here: memory is NOT measured")
def test_reading_takes_the_buffers_memory_not_the_stores(tmp_path):
    """105 MB of tokens are read through a buffer of 8 MB and shards of 2 MB."""
    command = [sys.executable, "-P", "-c", MEMORY, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    tokens, megabytes = done.stdout.split()
    assert int(tokens) == 400 * 256
    assert 4 < float(megabytes) < 24

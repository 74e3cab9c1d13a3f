"""Batches that mix pictures: nothing lost, nothing doubled, bad tokens named."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sae.mixing import BUFFER_BATCHES, StreamSample, mixed_batches


def numbered(n: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + n, dtype=torch.float64)[:, None].repeat(1, 2)


def batches_of(tokens, batch_size, seed=0):
    return list(mixed_batches(tokens, 2, batch_size, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("sizes", [[1000], [7] * 150, [400, 3, 600], [10, 0, 990]])
def test_every_token_comes_once_and_only_the_last_part_batch_is_left_out(sizes):
    chunks, start = [], 0
    for size in sizes:
        chunks.append(numbered(size, start))
        start += size
    batches = batches_of(iter(chunks), 32)
    assert all(batch.shape == (32, 2) for batch in batches)
    assert len(batches) == start // 32
    seen = torch.cat(batches)[:, 0]
    assert len(seen.unique()) == len(seen)


def test_a_tensor_is_shuffled_as_a_whole():
    first = torch.cat(batches_of(numbered(4096), 64)[:8])[:, 0]
    # 512 of 4096 numbers drawn evenly have the mean 2047.5 within 52 (one standard error).
    assert abs(float(first.mean()) - 2047.5) < 5 * 52


def test_a_stream_of_pictures_is_mixed():
    picture = 64
    stream = (torch.full((picture, 2), float(i)) for i in range(100))
    batches = batches_of(stream, picture)
    pictures = [len(batch[:, 0].unique()) for batch in batches]
    # A batch takes 64 tokens out of a buffer of 16 pictures: all but certainly more than 10 of them.
    assert min(pictures[:-1]) > 10
    assert len(batches) == 100


def test_the_buffer_is_bounded():
    read = 0

    def stream():
        nonlocal read
        for i in range(1000):
            read += 1
            yield numbered(8, 8 * i)

    next(mixed_batches(stream(), 2, 8, torch.Generator().manual_seed(0)))
    assert read == BUFFER_BATCHES


def test_fewer_tokens_than_a_batch_are_one_batch():
    (batch,) = batches_of(numbered(10), 32)
    assert sorted(batch[:, 0].tolist()) == list(range(10))
    assert batches_of(numbered(0), 32) == []


def test_the_order_is_the_seeds():
    a, b, c = (torch.cat(batches_of(numbered(500), 50, seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (torch.zeros(5, 3), "Tokens have 3 channels, but d_in is 2"),
        (torch.zeros(5), r"torch.float32 \[5\]"),
        (torch.zeros(5, 2, dtype=torch.long), r"torch.int64 \[5, 2\]"),
        ([[1.0, 2.0]], "Tokens are list"),
        (torch.tensor([[1.0, 2.0], [torch.nan, 0.0], [0.0, torch.inf], [-torch.inf, torch.nan]]), "3 of 4"),
    ],
)
def test_bad_tokens_are_named(tokens, sentence):
    with pytest.raises(HapaxError, match=sentence):
        batches_of(tokens, 2)


def test_a_stream_sample_is_uniform():
    counts = Counter()
    for seed in range(400):
        sample = StreamSample(20, torch.Generator().manual_seed(seed))
        for batch in numbered(200).split(17):
            sample.add(batch)
        drawn = sample.tokens()[:, 0].long().tolist()
        assert len(drawn) == len(set(drawn)) == 20
        counts.update(drawn)
    # Each tenth of the stream should give 800 of the 8000 draws; their standard deviation is under 27.
    tenths = [sum(counts[i] for i in range(20 * t, 20 * t + 20)) for t in range(10)]
    assert max(abs(tenth - 800) for tenth in tenths) < 5 * 27


def test_a_short_stream_is_its_own_sample():
    sample = StreamSample(50, torch.Generator().manual_seed(0))
    sample.add(numbered(30))
    assert torch.equal(sample.tokens(), numbered(30))

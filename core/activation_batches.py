"""Training batches that mix the tokens of many pictures in bounded memory; which pictures are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .activation_layout import DTYPES, Identity, Layout
from .activation_shards import Place, Shard, Unwritten

Read = Callable[[Shard | Unwritten], dict[str, Tensor]]


def is_held_out(identity: Identity, fraction: float, seed: int) -> bool:
    """Say whether a picture belongs to the held-out part: by a hash of its identity and the seed alone.

    So the split is by picture, not by token, and adding pictures moves none from one part to the other.
    """
    digest = hashlib.sha256(repr((seed, *identity)).encode("ascii", "backslashreplace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def mixed(
    places: Sequence[Place],
    read: Read,
    layout: Layout,
    *,
    batch_size: int,
    buffer: int,
    seed: int,
    epochs: int,
) -> Iterator[Tensor]:
    """Yield float32 batches [batch_size, C] of the tokens of the pictures at `places`, `epochs` times over.

    Each epoch gives every token once; the last batch of all may be smaller. Pictures are read shard by shard,
    in random order of shards, through a pool of `buffer` tokens. If the pool takes them all, they are read in
    the order of `places`, so that the batches don't depend on how shards were cut.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    n_tokens = len(places) * len(layout.steps) * len(layout.positions)
    pool = torch.empty(min(buffer, n_tokens), layout.channels, dtype=DTYPES[layout.dtype])

    def pieces() -> Iterator[Tensor]:
        for _ in range(epochs):
            order = places if n_tokens <= buffer else _by_shard(places, generator)
            yield from shuffled(_token_rows(order, read), pool, batch_size, generator)

    return rebatched(pieces(), batch_size)


def _by_shard(places: Sequence[Place], generator: torch.Generator) -> list[Place]:
    groups: dict[str, list[Place]] = {}
    for place in sorted(places, key=lambda place: (place.shard.id, place.row)):
        groups.setdefault(place.shard.id, []).append(place)
    shards = list(groups.values())
    return [place for k in torch.randperm(len(shards), generator=generator).tolist() for place in shards[k]]


def _token_rows(places: Iterable[Place], read: Read) -> Iterator[Tensor]:
    shard, tokens = None, torch.empty(0)
    for place in places:
        if place.shard is not shard:
            shard, tokens = place.shard, read(place.shard)["tokens"]
        yield tokens[place.row].flatten(0, 1)


def shuffled(chunks: Iterable[Tensor], pool: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the rows of `chunks` ([n, C] each), each once, in random order, in pieces of at most `size`.

    `pool` ([capacity, C]) is the only memory: when it is full a random half leaves, and its slots are filled
    anew. If all rows fit, this is one uniform permutation of them.
    """
    free = torch.arange(len(pool))
    for chunk in chunks:
        while len(chunk):
            n = min(len(free), len(chunk))
            pool[free[:n]] = chunk[:n]
            free, chunk = free[n:], chunk[n:]
            if not len(free):
                free = torch.randperm(len(pool), generator=generator)[: (len(pool) + 1) // 2]
                yield from (pool.index_select(0, slots) for slots in free.split(size))
    kept = torch.ones(len(pool), dtype=torch.bool)
    kept[free] = False
    rest = kept.nonzero().flatten()
    rest = rest[torch.randperm(len(rest), generator=generator)]
    yield from (pool.index_select(0, slots) for slots in rest.split(size))


def rebatched(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the rows of `pieces` in order as float32 batches of `size` rows; only the last may be smaller."""
    batch, filled = torch.empty(0), 0
    for piece in pieces:
        while len(piece):
            if not filled:
                batch = torch.empty(size, piece.shape[1])
            n = min(size - filled, len(piece))
            batch[filled : filled + n] = piece[:n]
            piece, filled = piece[n:], filled + n
            if filled == size:
                yield batch
                filled = 0
    if filled:
        yield batch[:filled]

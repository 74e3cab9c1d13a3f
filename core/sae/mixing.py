"""From tokens in the order of their pictures to batches in which many pictures meet.

Tokens of one picture resemble each other. In batches of whole pictures BatchTopK would share its budget
among a handful of them (four, with SDXL's 1024 tokens a picture), so tokens pass through a mixing buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..errors import HapaxError

BUFFER_BATCHES = 16


def mixed_batches(
    tokens: Tensor | Iterable[Tensor], d_in: int, batch_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield shuffled batches `[batch_size, d_in]` of one pass over the tokens.

    A tensor is shuffled as a whole. An iterable goes through a buffer of 16 batches: whenever it is full, it
    is shuffled and half of it is yielded. Tokens that fill no batch at the end are left out, unless there was
    no batch at all; then they are the only one.

    Args:
        tokens: `[N, d_in]`, or an iterable of such tensors of any lengths.
        d_in: channels that a token must have.
        batch_size: tokens in a batch.
        generator: CPU generator of the shuffle.

    Raises HapaxError if a tensor has another shape, is not floating point, or holds NaN or infinity.
    """
    whole = isinstance(tokens, Tensor)
    capacity = float("inf") if whole else BUFFER_BATCHES * batch_size
    pool: list[Tensor] = []
    empty = True
    for chunk in [tokens] if whole else tokens:
        pool.append(checked_tokens(chunk, d_in))
        if sum(map(len, pool)) >= capacity:
            mixed, order = _shuffled(pool, generator)
            used = len(order) // 2 // batch_size * batch_size
            yield from (mixed[i] for i in order[:used].split(batch_size))
            pool, empty = [mixed[order[used:]]], False
    if pool:
        mixed, order = _shuffled(pool, generator)
        used = len(order) // batch_size * batch_size
        if empty and not used:
            used = len(order)
        yield from (mixed[i] for i in order[:used].split(batch_size) if len(i))


def _shuffled(pool: list[Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mixed = pool[0] if len(pool) == 1 else torch.cat(pool)
    return mixed, torch.randperm(len(mixed), generator=generator).to(mixed.device)


def checked_tokens(tokens: Tensor, d_in: int) -> Tensor:
    """Return `tokens` if they are finite floats `[N, d_in]`; else raise HapaxError."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or not tokens.is_floating_point():
        found = f"{tokens.dtype} {list(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise HapaxError(f"Tokens are {found}; give floating-point tensors of shape [N, {d_in}].")
    if tokens.shape[1] != d_in:
        raise HapaxError(
            f"Tokens have {tokens.shape[1]} channels, but d_in is {d_in}; set d_in to the site's channels."
        )
    # In pieces, because the mask of a large store would need a quarter of its memory again.
    bad = sum(int((~part.isfinite()).any(1).sum()) for part in tokens.split(65536))
    if bad:
        raise HapaxError(
            f"{bad} of {len(tokens)} tokens hold NaN or infinity; record again, in fp32 if fp16 overflowed."
        )
    return tokens


class StreamSample:
    """A uniform sample of a stream: the tokens that drew the `size` smallest random keys."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self._size, self._generator = size, generator
        self._keys: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._cutoff = 1.0

    def add(self, batch: Tensor) -> None:
        """Offer the tokens `[B, d]` to the sample."""
        keys = torch.rand(len(batch), generator=self._generator, dtype=torch.float64)
        keep = keys < self._cutoff
        self._keys.append(keys[keep])
        self._tokens.append(batch[keep.to(batch.device)])
        if sum(map(len, self._keys)) > 2 * self._size:
            self._shrink()

    def tokens(self) -> Tensor:
        """Return the sample, `[min(size, tokens seen), d]`."""
        self._shrink()
        return self._tokens[0]

    def _shrink(self) -> None:
        keys, tokens = torch.cat(self._keys), torch.cat(self._tokens)
        if len(keys) > self._size:
            keys, order = keys.topk(self._size, largest=False)
            tokens, self._cutoff = tokens[order.to(tokens.device)], float(keys.max())
        self._keys, self._tokens = [keys], [tokens]

"""Many texts in three tensors, so that they lie in the index's file and only those asked for are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import HapaxError


class Texts:
    """M texts: UTF-8 bytes one after the other, where each ends, and a sorted table to find one by itself.

    >>> texts = Texts.of(["a cat", "a dog"])
    >>> texts[1], texts.index("a cat"), len(texts)
    ('a dog', 0, 2)
    """

    NAMES = ("text", "text_ends", "text_keys", "text_rows")

    def __init__(self, data: Tensor, ends: Tensor, keys: Tensor, rows: Tensor) -> None:
        self.tensors = dict(zip(self.NAMES, (data, ends, keys, rows), strict=True))

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """From texts, each different."""
        encoded = [text.encode() for text in texts]
        keys, rows = torch.tensor([_key(each) for each in encoded]).sort(stable=True)
        ends = torch.tensor([len(each) for each in encoded]).cumsum(0)
        return cls(torch.frombuffer(bytearray(b"".join(encoded)), dtype=torch.uint8), ends, keys, rows)

    def __len__(self) -> int:
        return len(self.tensors["text_ends"])

    def __getitem__(self, row: int) -> str:
        row = range(len(self))[row]
        ends = self.tensors["text_ends"]
        start = int(ends[row - 1]) if row else 0
        return bytes(self.tensors["text"][start : int(ends[row])].numpy()).decode()

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def index(self, text: str) -> int:
        """The row of a text; raises HapaxError where it isn't there."""
        keys, rows = self.tensors["text_keys"], self.tensors["text_rows"]
        wanted = _key(text.encode())
        place = int(torch.searchsorted(keys, wanted))
        while place < len(keys) and int(keys[place]) == wanted:
            if self[int(rows[place])] == text:
                return int(rows[place])
            place += 1
        raise HapaxError(
            f"The caption {text!r} is not in the index of {len(self)} captions; give one as it is written there, or "
            "build the index anew with it."
        )


def _key(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)

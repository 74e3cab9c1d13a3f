"""How a picture is known, and the one layout of steps, positions and channels that all pictures share."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .errors import HapaxError

Prompt = int | str
Identity = tuple[Prompt, int]

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# Machines agree on progress up to float32 rounding; neighbours on a schedule of 1,000 differ by 1e-3.
_STEP_TOLERANCE = 1e-6


def canonical(identity: Identity) -> tuple[bool, Prompt, int]:
    """Sort key of (prompt, seed): prompts given as numbers come before prompts given as text."""
    return (isinstance(identity[0], str), *identity)


@dataclass(frozen=True)
class Layout:
    """The shape that every picture of a store has: S steps x P positions x C channels, and its extras.

    steps are progress in [0, 1], ascending; positions index the token grid's H*W cells, ascending;
    thumbnail is (height, width) and embedding its length, or None for a store without.
    """

    steps: tuple[float, ...]
    positions: tuple[int, ...]
    channels: int
    dtype: str
    thumbnail: tuple[int, int] | None = None
    embedding: int | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layout:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        thumbnail, embedding = data["thumbnail"], data["embedding"]
        if data["dtype"] not in DTYPES:
            raise ValueError(f"unknown dtype {data['dtype']!r}")
        return cls(
            steps=tuple(map(float, data["steps"])),
            positions=tuple(map(int, data["positions"])),
            channels=int(data["channels"]),
            dtype=data["dtype"],
            thumbnail=None if thumbnail is None else (int(thumbnail[0]), int(thumbnail[1])),
            embedding=None if embedding is None else int(embedding),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of one picture, by the name it has in a shard."""
        shapes: dict[str, tuple[int, ...]] = {"tokens": (len(self.steps), len(self.positions), self.channels)}
        if self.thumbnail is not None:
            shapes["thumbnails"] = (*self.thumbnail, 3)
        if self.embedding is not None:
            shapes["embeddings"] = (self.embedding,)
        return shapes

    def difference(self, expected: Layout) -> str | None:
        """Return the first thing in which this layout differs from the expected one, in words, or None."""
        for field in fields(self):
            found, wanted = getattr(self, field.name), getattr(expected, field.name)
            if field.name == "steps" and _same_steps(found, wanted):
                continue
            if found != wanted:
                return f"{field.name} {_short(found)} where the store has {_short(wanted)}"
        return None


def _same_steps(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= _STEP_TOLERANCE for x, y in zip(a, b, strict=True))


def _short(value: object) -> str:
    if not isinstance(value, tuple) or len(value) <= 6:
        return str(value)
    return f"({', '.join(map(str, value[:3]))}, ..., {value[-1]}; {len(value)} of them)"


def whole_number(value: object, what: str) -> int:
    """Return `value` as an int. Raises HapaxError for text, fractions and booleans, naming `what` it is."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            pass
    raise HapaxError(f"{what} is {value!r}, expected a whole number")


def read_identity(sample: Mapping[str, Any]) -> Identity:
    """Return (prompt, seed) of a sample. Raises HapaxError if one is absent or of another type."""
    absent = [key for key in ("prompt", "seed") if key not in sample]
    if absent:
        raise HapaxError(f"the sample has no {' and no '.join(absent)}; it is known by its prompt and seed")
    prompt = sample["prompt"]
    if not isinstance(prompt, str):
        prompt = whole_number(prompt, "a sample's prompt, unless it is text,")
    return prompt, whole_number(sample["seed"], f"the seed of a sample of prompt {prompt!r}")


def named(identity: Identity) -> str:
    """Return what messages call a picture."""
    return f"the sample (prompt {identity[0]!r}, seed {identity[1]})"


def estimate_bytes(
    n_pictures: int, steps: int, positions: int, channels: int, dtype: torch.dtype = torch.float16
) -> int:
    """Return the bytes that the tokens of a store will take; thumbnails and embeddings are small beside them.

    >>> estimate_bytes(5_000, steps=5, positions=64, channels=1280) / 1e9  # SDXL, gigabytes
    4.096
    """
    return n_pictures * steps * positions * channels * dtype.itemsize


def regular_positions(grid_h: int, grid_w: int, count: int) -> Tensor:
    """Return about `count` cells of a `grid_h` x `grid_w` token grid, evenly spread: a LongTensor, ascending.

    The cells form a sub-grid with the grid's aspect, centred in it; the result depends on nothing but the
    arguments, so it is the same for every picture. A grid of `count` cells or fewer is returned whole.
    Raises HapaxError on sizes below 1.

    >>> regular_positions(4, 4, 4)
    tensor([ 5,  7, 13, 15])
    >>> len(regular_positions(32, 32, 64)), len(regular_positions(4, 4, 64))
    (64, 16)
    """
    if min(grid_h, grid_w, count) < 1:
        raise HapaxError(f"can't choose {count} positions of a {grid_h} x {grid_w} grid; all must be 1 or more")
    if count >= grid_h * grid_w:
        return torch.arange(grid_h * grid_w)
    n_rows = min(max(round((count * grid_h / grid_w) ** 0.5), 1), grid_h, count)
    n_columns = min(max(round(count / n_rows), 1), grid_w)
    rows = (2 * torch.arange(n_rows) + 1) * grid_h // (2 * n_rows)
    columns = (2 * torch.arange(n_columns) + 1) * grid_w // (2 * n_columns)
    return (rows[:, None] * grid_w + columns).flatten()

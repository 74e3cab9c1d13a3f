"""Reading a folder of shards as one table of pictures in canonical order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .activation_batches import is_held_out, mixed
from .activation_header import Header, identifying_keys, mismatch
from .activation_layout import DTYPES, Identity, Layout, Prompt, canonical, whole_number
from .activation_scan import Damaged, scan
from .activation_shards import Place, Provenance, Shard, ShardError, Unwritten
from .errors import HapaxError

_EXTRAS = {"thumbnails": torch.uint8, "embeddings": torch.float32}
Indices = int | slice | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class Sample:
    """A row of a store's table: one picture. `shard` is its file's name, or None while only in memory."""

    prompt: Prompt
    seed: int
    caption: str | None
    shard: str | None

    @property
    def identity(self) -> Identity:
        """(prompt, seed), by which the store knows the picture."""
        return self.prompt, self.seed


class ActivationReader:
    """The reading half of an ActivationStore."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.damaged: list[Damaged] = []
        self._header = header
        self._unwritten = Unwritten()
        self._places: dict[Identity, Place] = {}
        self._sorted: list[Identity] = []
        self._broken: dict[Path, str] = {}
        self._rescan()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, identity: object) -> bool:
        return identity in self._places

    @property
    def provenance(self) -> Provenance:
        """What was recorded, as it was given to `create`."""
        return self._header.provenance

    @property
    def layout(self) -> Layout:
        """Steps, positions, channels and extras of every picture. Raises HapaxError while there is none."""
        if self._header.layout is None:
            raise HapaxError(f"{self.folder} holds no pictures yet; record some first")
        return self._header.layout

    @property
    def steps(self) -> Tensor:
        """Progress in [0, 1] of the recorded steps: float64 [S], ascending."""
        return torch.tensor(self.layout.steps, dtype=torch.float64)

    @property
    def positions(self) -> Tensor:
        """The recorded cells of the token grid: int64 [P], ascending."""
        return torch.tensor(self.layout.positions)

    @property
    def samples(self) -> list[Sample]:
        """The table of pictures, in canonical order."""
        rows = [(identity, self._places[identity].shard) for identity in self._order()]
        return [Sample(*key, shard.samples[key], shard.path.name if shard.path else None) for key, shard in rows]

    def tokens(self, samples: Indices = None, steps: Indices = None, positions: Indices = None) -> Tensor:
        """Return tokens [n, S', P', C] in the store's dtype; None means all, in canonical order.

        `samples`, `steps` and `positions` are indices into `.samples`, `.steps` and `.positions` (ints,
        slices, sequences; negative ones count from the end). Shards are mapped: only what is asked for takes
        memory. Raises HapaxError on an index out of range, and on a damaged shard, which it names.
        """
        n_steps, n_positions, channels = self.layout.shapes()["tokens"]
        chosen_steps = _indices(steps, n_steps, "step")
        cells = chosen_steps[:, None] * n_positions + _indices(positions, n_positions, "position")

        def pick(tokens: Tensor, rows: Tensor) -> Tensor:
            flat = rows[:, None, None] * (n_steps * n_positions) + cells
            return tokens.flatten(0, 2).index_select(0, flat.flatten()).view(*flat.shape, channels)

        return self._gather("tokens", samples, pick)

    def embeddings(self, samples: Indices = None) -> Tensor:
        """Return embeddings [n, E], float32. Raises HapaxError if the store was recorded without."""
        return self._gather("embeddings", samples, _rows)

    def thumbnails(self, samples: Indices = None) -> Tensor:
        """Return thumbnails [n, H, W, 3], uint8. Raises HapaxError if the store was recorded without."""
        return self._gather("thumbnails", samples, _rows)

    def split(self, held_out: float | None, seed: int) -> tuple[list[int], list[int]]:
        """Return the indices of the pictures to train on, and of those held out: about `held_out` of all.

        The split is by a hash of seed and identity: order does not matter, and new pictures move no old ones.
        """
        seed = whole_number(seed, "the seed of the split")
        if held_out is not None and not (isinstance(held_out, float) and 0 < held_out < 1):
            raise HapaxError(f"held_out is {held_out!r}, expected a fraction between 0 and 1, or None")
        parts: tuple[list[int], list[int]] = ([], [])
        for index, identity in enumerate(self._order()):
            parts[held_out is not None and is_held_out(identity, held_out, seed)].append(index)
        return parts

    def batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epochs: int = 1,
        buffer: int = 1 << 18,
        held_out: float | None = None,
        part: str = "train",
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Tensor]:
        """Return an iterator of float32 batches [batch_size, C] that mix the tokens of many pictures.

        Each of `epochs` passes gives every token of the part once; only the last batch of all may be smaller.
        `buffer` is the number of tokens in memory: the more, the better mixed. `part` is "train" or
        "held_out" of `split(held_out, seed)`; process `rank` of `world` reads every world-th picture of it
        (so two ranks may differ in length by one picture). The same arguments give the same batches, and if
        the part fits into the buffer, it does not matter how shards were cut. Raises HapaxError on bad
        arguments, an empty part, or a damaged shard.
        """
        _positive(batch_size=batch_size, epochs=epochs, buffer=buffer, world=world)
        if part not in ("train", "held_out") or not 0 <= whole_number(rank, "rank") < world:
            raise HapaxError(f"found {part=}, {rank=}, {world=}; expected 'train' or 'held_out', and rank < world")
        chosen = self.split(held_out, seed)[part == "held_out"][rank::world]
        if not chosen:
            raise HapaxError(f"{part=} of {len(self)} pictures in {self.folder} is empty at {held_out=}, {world=}")
        order = self._order()
        places = [self._places[order[index]] for index in chosen]
        return mixed(places, self._read, self.layout, batch_size=batch_size, buffer=buffer, seed=seed, epochs=epochs)

    def verify(self) -> list[Damaged]:
        """Compare every shard not read yet with its checksum; return `damaged`, brought up to date."""
        broken: dict[Path, str] | None = None
        # Where a damaged shard has a copy, that one takes its place and is to be compared too.
        while broken is None or broken:
            broken = {}
            for shard in self._shards():
                try:
                    shard.tensors()
                except ShardError as error:
                    broken[shard.path] = str(error)
            self._broken |= broken
            self._rescan()
        return self.damaged

    def _order(self) -> list[Identity]:
        if len(self._sorted) != len(self._places):
            self._sorted = sorted(self._places, key=canonical)
        return self._sorted

    def _shards(self) -> list[Shard]:
        shards = {at.shard.id: at.shard for at in self._places.values() if isinstance(at.shard, Shard)}
        return [shards[id] for id in sorted(shards)]

    def _gather(self, name: str, samples: Indices, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if name not in self.layout.shapes():
            raise HapaxError(f"{self.folder} was recorded without {name}; record it anew with them")
        order = self._order()
        groups: dict[str, tuple[Shard | Unwritten, list[int], list[int]]] = {}
        chosen = _indices(samples, len(order), "picture").tolist()
        for target, index in enumerate(chosen):
            shard, row = self._places[order[index]]
            _, rows, targets = groups.setdefault(shard.id, (shard, [], []))
            rows.append(row)
            targets.append(target)
        dtype = DTYPES[self.layout.dtype] if name == "tokens" else _EXTRAS[name]
        none = torch.empty((0, *self.layout.shapes()[name]), dtype=dtype)
        result = none.new_empty((len(chosen), *pick(none, torch.empty(0, dtype=torch.long)).shape[1:]))
        for shard, rows, targets in groups.values():
            result[targets] = pick(self._read(shard)[name], torch.tensor(rows))
        return result

    def _read(self, shard: Shard | Unwritten) -> dict[str, Tensor]:
        try:
            return shard.tensors()
        except ShardError as error:
            assert isinstance(shard, Shard)
            self._broken[shard.path] = str(error)
            self._rescan()
            raise HapaxError(
                f"shard {shard.path} can't be used: {error}; call drop_damaged() and record its "
                f"{len(shard.samples)} pictures again"
            ) from error

    def _rescan(self) -> None:
        """Read anew what lies in the folder; pictures in memory stay."""
        checked = {(shard.path, shard.id) for shard in self._shards() if shard.checked}
        shards, self.damaged = scan(self.folder / "shards", self._refusal, self._broken)
        self._places, self._sorted = {}, []
        for shard in shards:
            shard.checked = (shard.path, shard.id) in checked
            self._register(shard)
        self._register(self._unwritten)

    def _register(self, shard: Shard | Unwritten) -> None:
        self._places.update((identity, Place(shard, row)) for row, identity in enumerate(shard.samples))

    def _refusal(self, shard: Shard) -> str | None:
        keys = identifying_keys(self.provenance, shard.provenance)
        if differs := mismatch(shard.provenance, self.provenance, keys):
            return f"foreign: {differs}"
        if self._header.layout is None:
            return "foreign: this store has recorded nothing yet"
        differs = shard.layout.difference(self._header.layout)
        return differs and f"foreign: {differs}"


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor.index_select(0, rows)


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if whole_number(number, name) < 1:
            raise HapaxError(f"{name} is {number}, expected 1 or more")


def _indices(choice: Indices, n: int, what: str) -> Tensor:
    """Return the chosen ones of n things as indices from 0 to n - 1: int64 [n']."""
    if choice is None:
        return torch.arange(n)
    if isinstance(choice, slice):
        return torch.tensor(range(n)[choice], dtype=torch.long)
    listed = choice.tolist() if isinstance(choice, Tensor) else choice
    listed = [listed] if isinstance(listed, int) else listed
    numbers = [whole_number(each, f"a {what} index") for each in listed]
    for number in numbers:
        if not -n <= number < n:
            raise HapaxError(f"there is no {what} {number}: the store has {n}")
    return torch.tensor([number % n for number in numbers], dtype=torch.long)

"""Dials: what a caption changes at a site, place by place and step by step. They steer where one vector can't.

A direction is a dial's mean over places and steps. On the emoji model that mean hardly steers at all, while the
whole pattern does: at twice its natural strength all of 12 firefighters turn into women, none by the mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..direction import Direction
from ..errors import HapaxError
from ..fits import check_fits
from ..pattern import Pattern
from ..steering import Edit, Scope
from ..taps import Recorder, Step, Tap, compose
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors
from .recording import Recipe, check_seeds

_FORMAT, _VERSION = "hapax.dial", 1
# Samples whose whole activations are held at once.
_AT_ONCE = 64
# Vectors that a change is written over when it becomes a direction.
_RANK = 64


class AddMap(Edit):
    """Adds strength * map to the tokens, place by place.

    Args:
        change: [H, W, C], resampled (bilinear, antialiased) to the site's grid.
        strength, scope: as for every edit.
    """

    def __init__(self, change: Tensor, *, strength: float = 1.0, scope: Scope | None = None) -> None:
        super().__init__(change.shape[-1], strength, scope)
        self._planes = change.detach().float().permute(2, 0, 1)
        self._tokens = change.new_zeros(0)
        self._grid: tuple[int, int] | None = None

    def __call__(self, h: Tensor, step: Step) -> Tensor:
        """Edit `h`; see `Tap`."""
        if step.grid != self._grid:
            resized = F.interpolate(self._planes[None], size=step.grid, mode="bilinear", antialias=True)
            self._tokens, self._grid = resized[0].flatten(1).T.contiguous(), step.grid
        return super().__call__(h, step)

    def change(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return weight * map."""
        return weight * self._tokens.to(x.device)


@dataclass(frozen=True, eq=False)
class Dial:
    """What a caption changes at a site, ready to be turned.

    Attributes:
        change: [S, H, W, C] fp32 on the CPU, on a grid of places spread evenly over the picture.
        progress: S points of the way, ascending; linear between them, flat beyond.
        site: name of the site.
        meta: JSON-able provenance, as a Direction's.

    Raises HapaxError for a change that is not finite, or whose shapes or progress make no sense.
    """

    change: Tensor
    progress: tuple[float, ...]
    site: str
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        change, places = self.change.detach().cpu().float(), tuple(float(place) for place in self.progress)
        if change.ndim != 4 or len(change) != len(places) or not change.numel() or not bool(change.isfinite().all()):
            found = f"shape {tuple(change.shape)} with {len(places)} points of progress"
            raise HapaxError(f"The dial has {found}; give finite values [S, H, W, C] and S points.")
        if list(places) != sorted(set(places)) or not all(0 <= place <= 1 for place in places):
            raise HapaxError(f"The dial's progress is {places}; give ascending points in [0, 1].")
        object.__setattr__(self, "change", change)
        object.__setattr__(self, "progress", places)

    @property
    def made_for(self) -> dict[str, Any]:
        """What `fits.check_fits` compares."""
        return {**self.meta, "site": self.site, "channels": self.change.shape[-1]}

    def tap(self, strength: float = 1.0, scope: Scope | None = None) -> Tap:
        """The edit that pushes by strength times the change; strength 0 is an exact no-op."""
        scope = scope or Scope()
        parts = (self._part(scope, number) for number in range(len(self.change)))
        return compose([AddMap(c, strength=strength, scope=p) for c, p in zip(self.change, parts, strict=True)])

    def direction(self) -> Direction:
        """Its mean over places and steps: what look-ups compare."""
        offset = self.change.mean((0, 1, 2))
        return Direction(offset, self.site, float(offset.norm()), self.meta)

    def patterned(self, rank: int = _RANK) -> Direction:
        """A Direction that pushes as the dial does, place by place and step by step, in a small file.

        The change is written over the `rank` unit vectors that leave least of it out (Eckart and Young 1936). The
        direction's own vector is the mean, as in `direction`.
        """
        x = self.change.flatten(0, 2).double()
        _, vectors = torch.linalg.eigh(x.T @ x)
        rows = vectors[:, -min(rank, *x.shape) :].flip(1).T
        shown = (x @ rows.T).float().unflatten(0, self.change.shape[:3])
        pattern = Pattern(torch.arange(len(rows)), shown, torch.zeros_like(shown), torch.tensor(self.progress))
        return replace(self.direction(), pattern=pattern, rows=rows.float().contiguous())

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, whole or not at all; values in fp16 where they fit."""
        half = self.change.half()
        header = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "site": self.site,
            "progress": as_json(self.progress),
            "meta": as_json(self.meta),
        }
        write_tensors(path, {"change": half if bool(half.isfinite().all()) else self.change}, header)

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> Dial:
        """Read a dial that `save` wrote; `expect` is what it has to fit, as in `fits.check_fits`.

        Raises HapaxError if the file is missing, damaged, of another kind or a newer version, or doesn't fit.
        """
        tensors, header = read_tensors(path, "saved dial")
        check_header(path, header, _FORMAT, _VERSION, "a dial of Hapax; give a file that Dial.save wrote")
        found = tensors.get("change")
        shape = [] if found is None else list(found.shape)
        change = check_tensor(path, "change", found, shape, "save it again")
        try:
            meta, progress = dict(json.loads(header["meta"])), tuple(json.loads(header["progress"]))
            dial = cls(change, progress, header["site"], meta)
        except (KeyError, TypeError, ValueError) as error:
            raise HapaxError(f"{path} has a damaged header ({error}); save the dial again.") from error
        check_fits(f"{path} was made", dial.made_for, expect or {}, "use the model that it was made with")
        return dial

    def _part(self, scope: Scope, number: int) -> Scope:
        """The scope of one step's map: its part in the linear interpolation, times the caller's profile."""
        hat = Scope(profile=[(place, float(i == number)) for i, place in enumerate(self.progress)])
        own = Scope(profile=scope.profile)
        return replace(scope, profile=lambda progress: hat.factor(progress) * own.factor(progress))


def record_dial(
    backend: Any,
    caption: str,
    versus: str,
    *,
    seeds: Sequence[int] | int,
    steps: int = 4,
    site: str = "mid",
    guidance: float | None = None,
    batch_size: int = 8,
    size: Mapping[str, Any] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Dial:
    """Record what `caption` changes against `versus`: the mean over paired seeds of the difference, at every call.

    Args:
        backend, seeds, steps, site, guidance, batch_size, size: as in `CaptionIndex.build`.
        caption, versus: such as "a photo of a cook, line sketch" and "a photo of a cook".
        progress: called as progress("recording", pictures done, of so many).

    Raises:
        HapaxError: equal captions, an unknown site, or too few seeds.
    """
    if caption == versus:
        raise HapaxError(f"The caption and what it is compared with are both {caption!r}; give two that differ.")
    listed = check_seeds(seeds)
    recipe = Recipe(site, steps, guidance, None, batch_size, dict(size or {})).planned(backend)
    assert recipe.progress is not None
    sums = {text: torch.zeros(()) for text in (caption, versus)}
    grid, done = _Grid(), 0
    for text in sums:
        for start in range(0, len(listed), _AT_ONCE):
            part, recorder = listed[start : start + _AT_ONCE], Recorder(recipe.progress)

            def within(steps: int, of: int, done: int = done, count: int = len(part)) -> None:
                if progress is not None:
                    progress("recording", done + count * steps // of, 2 * len(listed))

            recipe.run(backend, [text] * len(part), part, compose([grid, recorder]), within)
            done += len(part)
            sums[text] = sums[text] + sum(recorder.take(row)[0].double() for row in range(len(part)))
    difference = (sums[caption] - sums[versus]) / len(listed)
    meta = {**backend.identity(), "label": f"{caption} - {versus}", "source": "caption", "seeds": len(listed)}
    return Dial(difference.unflatten(1, grid.shape), recipe.progress, str(recipe.site), meta)


class _Grid:
    """A tap that notes the largest grid of tokens."""

    shape = (0, 0)

    def __call__(self, h: Tensor, step: Step) -> None:
        self.shape = max(self.shape, step.grid, key=lambda grid: grid[0] * grid[1])

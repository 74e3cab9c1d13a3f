"""What was recorded of a bank, on disk in parts of some captions each, so that long recordings resume."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distributed import barrier, mine, rank, world_size
from ..durable import FolderLock, write_file, writing
from ..errors import HapaxError
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors
from .recording import Recipe

_FORMAT, _VERSION = "hapax.caption-part", 1
# Samples a part: what a crash loses.
_SAMPLES = 512


class Part(NamedTuple):
    """Means of n captions: over steps [n, R, C], and over seeds [n, S, C]; fp16 on disk, fp32 here."""

    by_seed: Tensor
    by_step: Tensor


@contextmanager
def kept(folder: str | Path | None) -> Iterator[Path]:
    """The folder of a recording, or a temporary one.

    Raises HapaxError for a temporary one where several processes share the work.
    """
    if folder is not None:
        yield Path(folder)
        return
    if world_size() > 1:
        raise HapaxError(f"{world_size()} processes share the recording; give them a folder that all can see.")
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


@dataclass(frozen=True)
class Parts:
    """The recording of captions at seeds by a recipe, kept in a folder.

    Attributes:
        folder: where the parts are.
        captions: all of them, M.
        seeds: R of them, the same for each caption.
        recipe: how; planned.
        model: the denoiser's fingerprint.
    """

    folder: Path
    captions: tuple[str, ...]
    seeds: list[int]
    recipe: Recipe
    model: str

    def record(self, backend: Any, report: Callable[[int, int], object]) -> None:
        """Record the parts that are not there yet, this process its share; `report` counts captions.

        Raises HapaxError if the folder holds the recording of something else, or is being written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        # One process holds the folder for all of its group.
        lock = FolderLock(self.folder) if rank() == 0 else None
        try:
            if rank() == 0:
                self._claim()
            barrier()
            self._record_missing(backend, report)
            barrier()
        finally:
            if lock is not None:
                lock.release()

    def _record_missing(self, backend: Any, report: Callable[[int, int], object]) -> None:
        spans = list(self._spans())
        ours = [spans[number] for number in mine(len(spans))]
        total = sum(len(span) for span in ours)
        done = sum(len(span) for span in ours if self._path(span).exists())
        report(done, total)
        for span in ours:
            if self._path(span).exists():
                continue

            def within(steps: int, of: int, done: int = done, span: range = span) -> None:
                report(done + len(span) * steps // of, total)

            pooled = self.recipe.record(backend, self.captions[span.start : span.stop], self.seeds, within)
            self._write(span, pooled)
            done += len(span)
            report(done, total)

    def __iter__(self) -> Iterator[tuple[range, Part]]:
        """Read the parts in the captions' order."""
        for span in self._spans():
            path = self._path(span)
            tensors, header = read_tensors(path, "part of a caption index")
            check_header(path, header, _FORMAT, _VERSION, "a part of a caption index")
            by_seed = tensors.get("by_seed")
            channels = 0 if by_seed is None else by_seed.shape[-1]
            shapes = {"by_seed": len(self.seeds), "by_step": len(self.recipe.progress or ())}
            yield (
                span,
                Part(
                    *(
                        check_tensor(path, name, tensors.get(name), [len(span), rows, channels], "delete it").float()
                        for name, rows in shapes.items()
                    )
                ),
            )

    def _claim(self) -> None:
        """Make the folder this recording's, or see that it is."""
        path = self.folder / "recording.json"
        wanted = {
            "captions": list(self.captions),
            "seeds": self.seeds,
            "recipe": vars(self.recipe),
            "model": self.model,
        }
        wanted = json.loads(as_json(wanted))
        if path.exists():
            try:
                held = json.loads(path.read_text("utf-8"))
            except ValueError as error:
                raise HapaxError(f"{path} is damaged ({error}); choose another folder.") from error
            if differs := ", ".join(key for key in wanted if held.get(key) != wanted[key]):
                raise HapaxError(
                    f"{self.folder} was begun with another {differs}; repeat what it was begun with, or choose "
                    "another folder."
                )
        write_file(path, as_json(wanted).encode())

    def _write(self, span: range, pooled: Tensor) -> None:
        tensors = {"by_seed": pooled.mean(2), "by_step": pooled.mean(1)}
        if not all(bool(torch.isfinite(tensor.half()).all()) for tensor in tensors.values()):
            tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        else:
            tensors = {name: tensor.half() for name, tensor in tensors.items()}
        write_tensors(self._path(span), tensors, {"format": _FORMAT, "version": str(_VERSION)})

    def _spans(self) -> Iterator[range]:
        size = max(1, _SAMPLES // len(self.seeds))
        return (range(i, min(i + size, len(self.captions))) for i in range(0, len(self.captions), size))

    def _path(self, span: range) -> Path:
        return self.folder / f"part-{span.start:08d}.safetensors"

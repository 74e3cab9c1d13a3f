"""Checkpoints of a training: one file, replaced whole, that only the same training goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..distributed import barrier, rank
from ..durable import FolderLock, writing
from ..errors import HapaxError
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors

_FORMAT, _VERSION = "hapax.guidance.checkpoint", 1


class Checkpoint:
    """`checkpoint.safetensors` in a folder, of the training that `identity` describes.

    Raises:
        HapaxError: another process trains there, or the folder can't be written.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = Path(folder) / "checkpoint.safetensors", as_json(dict(identity))
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path.parent) if rank() == 0 else None

    def load(self, state: Mapping[str, Tensor]) -> int:
        """Fill the tensors of `state` from the file and return its step; 0 if there is no file.

        Raises:
            HapaxError: the file is damaged or of another training.
        """
        if not self.path.exists():
            return 0
        tensors, header = read_tensors(self.path, "checkpoint")
        check_header(self.path, header, _FORMAT, _VERSION, "a checkpoint of a guidance module")
        self._compare(json.loads(header["identity"]))
        with torch.no_grad():
            for name, tensor in state.items():
                found = tensors.get(name)
                tensor.copy_(check_tensor(self.path, name, found, list(tensor.shape), "delete it and train again"))
        return int(header["step"])

    def _compare(self, found: dict[str, Any]) -> None:
        wanted = json.loads(self.identity)
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            told = ", ".join(f"{name} {_short(found.get(name))} instead of {_short(wanted[name])}" for name in other)
            raise HapaxError(
                f"{self.path} is of another training ({told}); go on with its settings, or train in another folder."
            )

    def save(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Replace the file; the other processes wait until it is there."""
        if rank() == 0:
            header = {
                "format": _FORMAT,
                "version": str(_VERSION),
                "identity": self.identity,
                "step": str(step),
            }
            write_tensors(self.path, state, header)
        barrier()

    def close(self) -> None:
        """Let another process train here."""
        if self._lock is not None:
            self._lock.release()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."

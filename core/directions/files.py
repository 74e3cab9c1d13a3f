"""A caption index on disk: one safetensors file, mapped when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import HapaxError
from ..tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors
from .texts import Texts

_FORMAT, _VERSION = "hapax.caption-index", 1
_TENSORS = ("rows", "contrasts", "lengths", "agreement", "p", "split_half", "profile", "mean", "null")
# Small enough to be looked through; the rows are not, for only what a look-up needs is to be read.
_CHECKED = ("lengths", "mean", "null", "p")


def write_index(path: str | Path, tensors: Mapping[str, Tensor], captions: Texts, meta: Mapping[str, Any]) -> None:
    """Write an index, whole or not at all. Raises HapaxError if the file can't be written."""
    header = {"format": _FORMAT, "version": str(_VERSION), "meta": as_json(meta)}
    write_tensors(path, {**tensors, **captions.tensors}, header)


def read_index(path: str | Path) -> tuple[Texts, dict[str, Tensor], dict[str, Any]]:
    """Captions, tensors and provenance of an index; the tensors are mapped, not read.

    Raises HapaxError if the file is missing, damaged, of another kind or a newer version.
    """
    tensors, header = read_tensors(path, "caption index")
    check_header(path, header, _FORMAT, _VERSION, "a caption index of Hapax; build one")
    try:
        meta = dict(json.loads(header["meta"]))
        channels, captions = int(meta["channels"]), Texts(*(tensors.pop(name) for name in Texts.NAMES))
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        behind = len(captions) + len(tensors["contrasts"]) - len(tensors["rows"])
        if tensors["rows"].shape[1:] != (channels,) or behind not in (0, 1) or float(meta["reach"]) <= 0:
            raise ValueError("its tensors don't belong together")
    except (KeyError, TypeError, ValueError) as error:
        raise HapaxError(f"{path} is a damaged caption index ({error}); build it again.") from error
    for name in _CHECKED:
        check_tensor(path, name, tensors[name], list(tensors[name].shape), "build it again")
    return captions, tensors, meta

"""One safetensors file with a JSON-able header: how everything that people share is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .durable import write_file, writing
from .errors import HapaxError


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Write tensors and a header to one file, whole or not at all; its folder is made if missing.

    Raises HapaxError if the file can't be written.
    """
    write_bytes(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(header or {})))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file, whole or not at all; its folder is made if missing. Raises HapaxError if that fails."""
    path = Path(path)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)


def read_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors (on the CPU) and header of a file that should hold `what`, as in "saved SAE".

    Raises HapaxError if the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise HapaxError(f"There is no file {path}; give the path of a {what}.")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise HapaxError(f"{path} is no safetensors file or is damaged ({error}); save it again.") from error


def check_header(path: str | Path, header: Mapping[str, str], form: str, version: int, what: str) -> None:
    """Raise HapaxError unless the header says that the file has this form, in a version that is read here."""
    if header.get("format") != form:
        raise HapaxError(f"{path} is not {what}.")
    if header.get("version") != str(version):
        raise HapaxError(
            f"{path} has format version {header.get('version')}, but this Hapax reads {version}; update it."
        )


def check_tensor(path: str | Path, name: str, found: Tensor | None, shape: list[int], repair: str) -> Tensor:
    """Return a tensor of floats that has this shape and is finite; else raise HapaxError.

    `repair` is what to do about values that are not finite.
    """
    if found is None or list(found.shape) != shape or not found.is_floating_point():
        what = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise HapaxError(f"{path} has {what} for {name}; expected floats of shape {shape}.")
    if not bool(found.isfinite().all()):
        raise HapaxError(f"{path} has NaN or infinity in {name}; {repair}.")
    return found


def as_json(value: Any, indent: int | None = None) -> str:
    """Provenance as JSON. Raises HapaxError if it is not JSON-able."""
    try:
        return json.dumps(value, indent=indent)
    except (TypeError, ValueError) as error:
        raise HapaxError(f"The provenance can't be written as JSON ({error}); use plain values.") from error

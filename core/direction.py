"""Direction: a vector at a site that turns something up, in a small file that people share."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .errors import HapaxError
from .fits import check_fits
from .pattern import AddPattern, Pattern
from .sae.model import MatryoshkaSAE
from .steering import AddDirection, Scope
from .taps import Tap
from .tensor_file import as_json, check_header, check_tensor, read_tensors, write_tensors

_FORMAT, _VERSION = "hapax.direction", 1
_REMEDY = "use it with the model and at the site that it was made for, or make one anew with this model"
# A thumbnail is for looking at; a file may come from anywhere.
_THUMBNAIL_EDGE, _THUMBNAIL_BYTES = 512, 1 << 20


@dataclass(frozen=True, eq=False)
class Direction:
    """What is added to the activations of one site to turn something up.

    Attributes:
        vector: [C] fp32 on the CPU, of unit norm (whatever is given is brought to it).
        site: name of the site, such as `mid`.
        scale: natural size in units of the activations: strength 1 pushes by as much.
        meta: JSON-able provenance: `model` (fingerprint), `architecture`, `label`, seeds, versions.
        profile: factor over progress as (progress, factor) pairs in ascending order; None is 1 throughout.
        thumbnail: uint8 [H, W, 3], what it looks like, or None.
        pattern: a feature's `Pattern`, with `rows` [R, C], what its latents stand for. Where there is one, the push is
            `AddPattern`'s, by step and place; the vector is its mean, for comparing directions with each other.

    Raises HapaxError for a vector that is not finite, not 1-D, or zero, and for a scale that is not positive.

    >>> Direction(torch.tensor([3.0, 4.0]), "mid", scale=2.0).vector
    tensor([0.6000, 0.8000])
    """

    vector: Tensor
    site: str
    scale: float = 1.0
    meta: dict[str, Any] = field(default_factory=dict)
    profile: Sequence[tuple[float, float]] | None = None
    thumbnail: Tensor | None = None
    pattern: Pattern | None = None
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        vector = torch.as_tensor(self.vector).detach().to("cpu", torch.float32)
        norm = float(vector.double().norm())
        if vector.ndim != 1 or not (math.isfinite(norm) and norm > 0):
            raise HapaxError(
                f"The vector has shape {tuple(vector.shape)} and norm {norm}; give a finite [C], not zero."
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise HapaxError(f"The scale is {self.scale}; give a positive number in units of the activations.")
        if self.thumbnail is not None and (self.thumbnail.dtype != torch.uint8 or self.thumbnail.shape[2:] != (3,)):
            raise HapaxError(
                f"The thumbnail is {self.thumbnail.dtype} {tuple(self.thumbnail.shape)}; give uint8 [H, W, 3]."
            )
        # Vectors of unit norm stay as they are, bit for bit.
        unit = vector if abs(norm - 1) < 1e-6 else (vector.double() / norm).float()
        object.__setattr__(self, "vector", unit.clone())
        object.__setattr__(self, "scale", float(self.scale))
        if self.profile is not None:
            object.__setattr__(self, "profile", tuple((float(p), float(f)) for p, f in self.profile))
            Scope(profile=self.profile)

    @property
    def channels(self) -> int:
        """C of the site that it fits."""
        return len(self.vector)

    def tap(self, strength: float = 1.0, scope: Scope | None = None) -> Tap:
        """The edit that pushes by strength * scale along the vector, or by strength times the pattern.

        Strength 0 is an exact no-op.
        """
        scope = scope or Scope()
        if self.pattern is not None and self.rows is not None:
            count, channels = self.rows.shape
            part = MatryoshkaSAE(channels, count, (count,), 1)
            part.W_dec.copy_(self.rows)
            return AddPattern(part, self.pattern, strength=strength, scope=scope)
        if self.profile is not None and scope.profile is None:
            scope = replace(scope, profile=self.profile)
        return AddDirection(self.vector, scale=self.scale, strength=strength, scope=scope)

    @property
    def made_for(self) -> dict[str, Any]:
        """What `fits.check_fits` compares."""
        return {**self.meta, "site": self.site, "channels": self.channels}

    def describe(self) -> str:
        """What it is and what it was made with, one a line."""
        lines = [str(self.meta.get("label") or "a direction without a name")]
        for key, said in (("prompt", "from"), ("architecture", "of a"), ("score", "minority score")):
            if self.meta.get(key):
                value = self.meta[key]
                lines.append(f"{said} {value:.2f}" if isinstance(value, float) else f"{said} {value}")
        lines.append(f"at {self.site}, {self.channels} channels, natural scale {self.scale:.3g}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, whole or not at all.

        Raises HapaxError if meta is not JSON-able or the file can't be written.
        """
        tensors = {"vector": self.vector}
        if self.thumbnail is not None:
            tensors["thumbnail"] = _png(self.thumbnail)
        if self.pattern is not None and self.rows is not None:
            change = self.pattern.shown - self.pattern.others
            tensors |= {"rows": self.rows, "change": change, "progress": self.pattern.progress}
        header = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "site": self.site,
            "scale": repr(self.scale),
            "profile": as_json(self.profile),
            "meta": as_json(self.meta),
        }
        write_tensors(path, tensors, header)

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> Direction:
        """Read a direction that `save` wrote.

        Args:
            path: the file.
            expect: what it has to fit, as in `fits.check_fits`.

        Raises HapaxError if the file is missing, damaged, of another kind or a newer version, or doesn't fit.
        """
        tensors, header = read_tensors(path, "saved direction")
        check_header(path, header, _FORMAT, _VERSION, "a direction of Hapax; give a file that Direction.save wrote")
        found = tensors.get("vector")
        vector = check_tensor(path, "vector", found, [0 if found is None else found.numel()], "save it again")
        try:
            profile = json.loads(header["profile"])
            meta = dict(json.loads(header["meta"]))
            direction = cls(vector, header["site"], float(header["scale"]), meta, profile)
        except (KeyError, TypeError, ValueError) as error:
            raise HapaxError(f"{path} has a damaged header ({error}); save the direction again.") from error
        if "rows" in tensors:
            direction = replace(direction, **_pattern(path, tensors, direction.channels))
        if "thumbnail" in tensors:
            direction = replace(direction, thumbnail=_pixels(path, tensors["thumbnail"]))
        check_fits(f"{path} was made", direction.made_for, expect or {}, _REMEDY)
        return direction


def _pattern(path: str | Path, tensors: Mapping[str, Tensor], channels: int) -> dict[str, Any]:
    """The pattern of a file: what differs, less nothing, over latents that are its rows."""
    count = len(tensors["rows"]) if tensors["rows"].ndim else 0
    change, progress = tensors.get("change"), tensors.get("progress")
    shape = [] if change is None or change.ndim != 4 else [*change.shape[:3], count]
    rows = check_tensor(path, "rows", tensors["rows"], [count, channels], "save it again")
    change = check_tensor(path, "change", change, shape, "save it again").float()
    progress = check_tensor(path, "progress", progress, shape[:1], "save it again").float()
    if not change.numel() or not bool((progress.diff() > 0).all()):
        raise HapaxError(f"{path} has an empty pattern or unordered steps; save the direction again.")
    pattern = Pattern(torch.arange(count), change, torch.zeros_like(change), progress)
    return {"pattern": pattern, "rows": rows.float()}


def _png(thumbnail: Tensor) -> Tensor:
    picture = Image.fromarray(thumbnail.cpu().numpy())
    picture.thumbnail((_THUMBNAIL_EDGE, _THUMBNAIL_EDGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _pixels(path: str | Path, data: Tensor) -> Tensor:
    try:
        if data.dtype != torch.uint8 or data.numel() > _THUMBNAIL_BYTES:
            raise ValueError(f"{data.dtype} {tuple(data.shape)}")
        with Image.open(io.BytesIO(data.numpy().tobytes()), formats=("PNG",)) as picture:
            if max(picture.size) > _THUMBNAIL_EDGE:
                raise ValueError(f"{picture.width} x {picture.height} pixels")
            rgb = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HapaxError(f"{path} has a thumbnail that can't be read ({error}); save the direction again.") from error
    return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)

"""What all nodes share: the schema API of either ComfyUI, Hapax's types, progress, pictures."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.v0_0_2 import ComfyExtension, io, ui
from PIL import Image
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "BIAS",
    "CLIP_SCORER",
    "DIRECTION",
    "EMBEDDINGS",
    "FEATURES",
    "GROUPS",
    "GUIDANCE",
    "INDEX",
    "RECORDING",
    "SAE",
    "ComfyExtension",
    "io",
    "progress",
    "schema",
    "to_image",
    "to_pictures",
    "ui",
    "widget",
]

ACTIVATIONS = io.Custom("HAPAX_ACTIVATIONS")
SAE = io.Custom("HAPAX_SAE")
FEATURES = io.Custom("HAPAX_FEATURES")
DIRECTION = io.Custom("HAPAX_DIRECTION")
CLIP_SCORER = io.Custom("HAPAX_CLIP")
EMBEDDINGS = io.Custom("HAPAX_EMBEDDINGS")
INDEX = io.Custom("HAPAX_INDEX")
BIAS = io.Custom("HAPAX_BIAS")
GROUPS = io.Custom("HAPAX_GROUPS")
GUIDANCE = io.Custom("HAPAX_GUIDANCE")
RECORDING = io.Custom("HAPAX_RECORDING")


def schema(node_id: str, name: str, category: str, **fields: Any) -> io.Schema:
    """Make a node's schema in category `Hapax/<category>`; fields that this ComfyUI lacks are left out.

    The id is `Hapax<node_id>`. Newer fields such as search_aliases raise a TypeError on older versions.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    kept = {key: value for key, value in fields.items() if key in known}
    return io.Schema(node_id=f"Hapax{node_id}", display_name=name, category=f"Hapax/{category}", **kept)


def widget(kind: Any, name: str, **options: Any) -> Any:
    """Make an input of `kind` (io.Int, io.Combo, ...); options that this ComfyUI lacks are left out, as `advanced`."""
    known = inspect.signature(kind.Input.__init__).parameters
    return kind.Input(name, **{key: value for key, value in options.items() if key in known})


def progress(total: int) -> Callable[..., None]:
    """Return `report(done, picture=None)`: moves the node's bar, shows a PIL preview, and ends an interrupted run."""
    bar = comfy.utils.ProgressBar(max(1, total))

    def report(done: int, picture: Image.Image | None = None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, max(1, total), None if picture is None else ("JPEG", picture, 512))

    return report


def to_pictures(image: Tensor) -> list[Image.Image]:
    """Turn an IMAGE `[B, H, W, 3]` in [0, 1] into PIL pictures."""
    pixels = (image[..., :3].float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(each.numpy()) for each in pixels]


def to_image(pictures: Sequence[Image.Image] | Sequence[Tensor] | Tensor) -> Tensor:
    """Turn PIL pictures or uint8 tensors `[H, W, 3]`, all of one size, into an IMAGE `[B, H, W, 3]` in [0, 1]."""
    pixels = [each if isinstance(each, Tensor) else _pixels(each) for each in pictures]
    return torch.stack(list(pixels)).float() / 255


def _pixels(picture: Image.Image) -> Tensor:
    rgb = picture.convert("RGB")
    return torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)

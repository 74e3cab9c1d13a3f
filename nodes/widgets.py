"""Widgets that several nodes have, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.durable import free_path
from . import folders
from .schema import io, ui, widget

# The largest number that JSON readers everywhere keep exactly, and the largest that ComfyUI's samplers take.
EXACT, SAMPLER = 2**53 - 1, 2**64 - 1


def feature_widget() -> Any:
    """Which of the listed features; `FeatureSet.find` understands it."""
    return widget(
        io.String,
        "feature",
        default="1",
        tooltip="Which one: its number in the list, or its name, as in: line sketch.",
    )


def seed_widget(tooltip: str, *, most: int = SAMPLER, control: bool = False) -> Any:
    """The seed of something random; `control` lets ComfyUI change it after each run."""
    return widget(io.Int, "seed", default=0, min=0, max=most, control_after_generate=control, tooltip=tooltip)


def file_widget(kind: str, name: str) -> Any:
    """Which file of `models/hapax/<kind>`; `folders.model_file` finds it."""
    return widget(
        io.Combo,
        name,
        options=folders.model_files(kind),
        tooltip=f"A file in models/hapax/{kind}; press R to see new ones.",
    )


def content_widget() -> Any:
    """The hash of the file that a `file_widget` means; `folders.model_file` takes both."""
    return widget(
        io.String,
        "content",
        default="",
        optional=True,
        advanced=True,
        tooltip="The SHA-256 of the file that is meant, filled in when a file is chosen. It is found by it under any "
        "name, and another of the same name is refused. Empty takes what is there.",
    )


def any_checkpoint_widget(made: str, risk: str) -> Any:
    """Whether a loaded thing, `made` with or on a checkpoint, may be used with others, at a `risk`."""
    return widget(
        io.Boolean,
        "any_checkpoint",
        default=False,
        tooltip=f"Allow it on other checkpoints of the same family than the one it was {made}, such as a fine-tune. "
        f"{risk}",
    )


def save_widgets(kind: str, default: str) -> list[Any]:
    """The name of a new file in `models/hapax/<kind>`, and whether it may take another's place."""
    return [
        widget(
            io.String,
            "filename",
            default=default,
            tooltip=f"Name of the file in models/hapax/{kind}; folders with / are made.",
        ),
        widget(
            io.Boolean,
            "overwrite",
            default=False,
            tooltip="Replace a file of that name. Off, a number is added to the new file's name instead.",
        ),
    ]


def saved_output(loader: str) -> Any:
    """The name of the file that was saved; the node `loader` reads it."""
    return io.String.Output("FILE", display_name="saved_as", tooltip=f"The file, as {loader} lists it.")


def save_model_file(kind: str, filename: str, overwrite: bool, save: Callable[[Path], object]) -> io.NodeOutput:
    """Let `save` write the file that `save_widgets` ask for; the output is its name, as `model_files` lists it.

    Raises:
        HapaxError: the name leads out of the folder, or is empty.
    """
    path = folders.new_model_file(filename, kind)
    path = path if overwrite else free_path(path)
    save(path)
    name = folders.name_of(path)
    return io.NodeOutput(name, ui=ui.PreviewText(f"saved as {name}"))

"""Nodes that make directions of features, keep them in files, and push a model along them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.amplify import WINDOWS
from ..core.direction import Direction
from ..core.feature_set import FeatureSet
from . import folders
from .comfy_taps import add_tap
from .fitting import fitting_site
from .schema import DIRECTION, FEATURES, io, schema, to_image
from .steering import SEARCH, profile_of, profile_widget, scope_of, scope_widgets, strength_widget
from .widgets import (
    any_checkpoint_widget,
    content_widget,
    feature_widget,
    file_widget,
    save_model_file,
    save_widgets,
    saved_output,
)

KIND = "directions"
_REMEDY = "use the model that it was made with, or turn on any_checkpoint in Load Direction"


class FeatureToDirection(io.ComfyNode):
    """Feature to Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "FeatureToDirection",
            "Feature to Direction",
            "steering",
            description="Make a small file of a feature, to share like a LoRA: what pushes the model towards it, with "
            "a thumbnail and where it comes from. Save it with Save Direction.",
            search_aliases=[*SEARCH, "share feature", "export feature"],
            inputs=[
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                feature_widget(),
            ],
            outputs=[DIRECTION.Output("DIRECTION", display_name="direction", tooltip="For Save or Apply Direction.")],
        )

    @classmethod
    def execute(cls, features: FeatureSet, feature: str) -> io.NodeOutput:
        """Make it."""
        return io.NodeOutput(features.direction(features.find(feature)))


class SaveDirection(io.ComfyNode):
    """Save Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SaveDirection",
            "Save Direction",
            "steering",
            description="Save a direction to models/hapax/directions, to share and to load with Load Direction.",
            search_aliases=[*SEARCH, "share"],
            is_output_node=True,
            inputs=[
                DIRECTION.Input("direction", tooltip="The direction to save."),
                *save_widgets(KIND, "my_direction"),
            ],
            outputs=[saved_output("Load Direction")],
        )

    @classmethod
    def execute(cls, direction: Direction, filename: str, overwrite: bool) -> io.NodeOutput:
        """Save."""
        return save_model_file(KIND, filename, overwrite, direction.save)


class LoadDirection(io.ComfyNode):
    """Load Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadDirection",
            "Load Direction",
            "steering",
            description="Load a direction from models/hapax/directions.",
            search_aliases=SEARCH,
            inputs=[
                file_widget(KIND, "direction_name"),
                any_checkpoint_widget("made with", "It may push less well there."),
                content_widget(),
            ],
            outputs=[
                DIRECTION.Output("DIRECTION", display_name="direction", tooltip="For Apply Direction."),
                io.Image.Output("IMAGE", display_name="thumbnail", tooltip="What it looks like; grey if it has none."),
                io.String.Output("INFO", display_name="info", tooltip="What it is, and what it was made with."),
            ],
        )

    @classmethod
    def validate_inputs(cls, direction_name: str | None = None, content: str | None = "") -> bool | str:
        """Say what is missing."""
        return folders.valid(folders.model_file, direction_name, content)

    @classmethod
    def fingerprint_inputs(cls, direction_name: str, content: str = "", **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(direction_name, content)

    @classmethod
    def execute(cls, direction_name: str, any_checkpoint: bool, content: str = "") -> io.NodeOutput:
        """Load."""
        direction = Direction.load(folders.model_file(direction_name, content))
        info = direction.describe()
        if any_checkpoint:
            direction.meta.pop("model", None)
        thumbnail = direction.thumbnail
        if thumbnail is None:
            thumbnail = torch.full((64, 64, 3), 128, dtype=torch.uint8)
        return io.NodeOutput(direction, to_image([thumbnail]), info)


class ApplyDirection(io.ComfyNode):
    """Apply Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "ApplyDirection",
            "Apply Direction",
            "steering",
            description="Push the model along a direction, made from a feature or from captions. Put it between the "
            "loader and the sampler; several of them add up.",
            search_aliases=[*SEARCH, "direction", "slider"],
            inputs=[
                io.Model.Input("model", tooltip="A model of the family that the direction was made with."),
                DIRECTION.Input("direction", tooltip="Of a feature, a caption, or from Load Direction."),
                strength_widget(3.0, 64.0),
                *scope_widgets(WINDOWS[0][1]),
                profile_widget(),
            ],
            outputs=[io.Model.Output("MODEL", display_name="model", tooltip="The model with the push on it.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        direction: Direction,
        strength: float,
        start_percent: float,
        end_percent: float,
        conditioning: str,
        norm_limit: float,
        mask: Tensor | None = None,
        asymmetric: bool = False,
        profile: str = "",
    ) -> io.NodeOutput:
        """Push."""
        site = fitting_site(model, direction.made_for, "The direction was made", _REMEDY)
        scope = scope_of(model, start_percent, end_percent, conditioning, norm_limit, mask, asymmetric)
        scope = replace(scope, profile=profile_of(model, profile))
        if not strength:
            return io.NodeOutput(model.clone())
        return io.NodeOutput(add_tap(model, site, direction.tap(strength, scope)))


NODES = [FeatureToDirection, SaveDirection, LoadDirection, ApplyDirection]

"""Nodes that turn features up or down: at the model, by directions, and by mixing prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.amplify import WINDOWS
from ..core.direction import Direction
from ..core.durable import free_path
from ..core.errors import HapaxError
from ..core.feature_set import MODES, Feature, FeatureSet, Mode
from ..core.prompt_mixing import chosen_rows
from ..core.steering import Scope
from . import folders
from .comfy_taps import add_tap
from .fitting import fitting_site
from .mixing import mixed
from .schema import DIRECTION, FEATURES, io, schema, to_image, ui, widget

KIND = "directions"
_SEARCH = ["hapax", "steer", "amplify"]
_FEATURES = "use the model that they were found in, or harvest and find with this one"
_DIRECTION = "use the model that it was made with, or turn on any_checkpoint in Load Direction"
_ROWS = {"positive": "cond", "negative": "uncond", "both": "both"}


def strength_widget(default: float, most: float) -> Any:
    """How strongly."""
    return widget(
        io.Float,
        "strength",
        default=default,
        min=-most,
        max=most,
        step=0.1,
        round=0.001,
        tooltip="How far to go. 0 changes nothing at all, 1 adds as much as there is by nature, negative values go "
        "the other way. Too much spoils the picture: go up until the feature shows.",
    )


def scope_widgets(end: float) -> list[Any]:
    """When, for whom and where."""
    return [
        widget(
            io.Float,
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="When to begin, as a share of the denoising: 0 is the first noise.",
        ),
        widget(
            io.Float,
            "end_percent",
            default=end,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="When to stop. The last steps only draw what is decided.",
        ),
        widget(
            io.Combo,
            "conditioning",
            options=list(_ROWS),
            default="positive",
            advanced=True,
            tooltip="Which half of the guidance is pushed: under the prompt, under the negative prompt, or both.",
        ),
        widget(
            io.Float,
            "norm_limit",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.05,
            advanced=True,
            tooltip="Keeps what is pushed within this factor of its natural size, from 1 on; 0 sets no limit.",
        ),
        io.Mask.Input("mask", optional=True, tooltip="Where in the picture to push; white is all, black nothing."),
    ]


def scope_of(
    model: Any, start_percent: float, end_percent: float, conditioning: str, norm_limit: float, mask: Tensor | None
) -> Scope:
    """The scope that the widgets mean, for this MODEL's schedule."""
    if end_percent < start_percent:
        raise HapaxError(
            f"start_percent is {start_percent} and end_percent {end_percent}; give a start that is not after the end."
        )
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-2:])
        if len(mask) != 1:
            raise HapaxError(f"There are {len(mask)} masks; give one, which holds for all pictures.")
        mask = mask[0].detach().clone()
    start, end = (progress_at(model, percent) for percent in (start_percent, end_percent))
    rows: Any = _ROWS[conditioning]
    return Scope(start, end, rows, mask, norm_limit or None)


def progress_at(model: Any, percent: float) -> float:
    """Progress along the training schedule at ComfyUI's percent: the same, but for flows with a shift."""
    sampling = model.get_model_object("model_sampling")
    if hasattr(sampling, "log_sigmas") or percent in (0.0, 1.0):
        return percent
    return 1.0 - float(sampling.percent_to_sigma(percent))


def turned(model: Any, features: FeatureSet, chosen: list[tuple[Feature, float]], mode: Mode, scope: Scope) -> Any:
    """A clone of the MODEL with features turned up or down; strengths of 0 leave it as it is."""
    site, clone = fitting_site(model, features.made_for, "The features were found", _FEATURES), model.clone()
    for feature, strength in chosen:
        if strength:
            clone = add_tap(clone, site, features.edit(feature, strength, mode, scope))
    return clone


class AmplifyFeature(io.ComfyNode):
    """Amplify Feature."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "AmplifyFeature",
            "Amplify Feature",
            "steering",
            description="Make the model show a rare feature more often: adds to its inner state what differs when the "
            "feature shows by itself. Put it between the loader and the sampler.",
            search_aliases=[*_SEARCH, "turn up", "boost feature"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the features were found in."),
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                widget(
                    io.String,
                    "feature",
                    default="1",
                    tooltip="Which one: its number in the list, or its name, as in: line sketch.",
                ),
                strength_widget(3.0, 16.0),
            ],
            outputs=[io.Model.Output("MODEL", display_name="model", tooltip="The model with the feature turned up.")],
        )

    @classmethod
    def execute(cls, model: Any, features: FeatureSet, feature: str, strength: float) -> io.NodeOutput:
        """Push."""
        return io.NodeOutput(
            turned(model, features, [(features.find(feature), strength)], "amplify", Scope(*WINDOWS[0]))
        )


class AmplifyFeaturesAdvanced(io.ComfyNode):
    """Amplify Features (Advanced)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "AmplifyFeaturesAdvanced",
            "Amplify Features (Advanced)",
            "steering",
            description="Turn several features up or down at once, for a part of the denoising, one half of the "
            "guidance, or a part of the picture.",
            search_aliases=[*_SEARCH, "suppress", "remove feature", "turn down"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the features were found in."),
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                widget(
                    io.String,
                    "feature",
                    default="1",
                    multiline=True,
                    tooltip="Which ones, one a line: a number in the list or a name. A colon and a number weigh it, as "
                    "in line sketch: 0.5, which goes half as far.",
                ),
                widget(
                    io.Combo,
                    "mode",
                    options=list(MODES),
                    default="amplify",
                    tooltip="amplify adds what differs inside the model where the feature shows, suppress takes it "
                    "away. multiply makes it 1 + strength times as strong where it shows already.",
                ),
                strength_widget(3.0, 16.0),
                *scope_widgets(WINDOWS[0][1]),
            ],
            outputs=[io.Model.Output("MODEL", display_name="model", tooltip="The model with the features turned.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        features: FeatureSet,
        feature: str,
        mode: Mode,
        strength: float,
        start_percent: float,
        end_percent: float,
        conditioning: str,
        norm_limit: float,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Turn."""
        scope = scope_of(model, start_percent, end_percent, conditioning, norm_limit, mask)
        chosen = [(features.find(name), strength * weight) for name, weight in weighted_lines(feature)]
        return io.NodeOutput(turned(model, features, chosen, mode, scope))


def weighted_lines(text: str) -> list[tuple[str, float]]:
    """Names with weights, one a line, as in `line sketch: 0.5`; without a number after a colon the weight is 1.

    Raises:
        HapaxError: there is no name.
    """
    named = []
    for line in filter(str.strip, text.splitlines()):
        name, colon, weight = line.rpartition(":")
        try:
            named.append((name.strip(), float(weight)) if colon else (line.strip(), 1.0))
        except ValueError:
            named.append((line.strip(), 1.0))
    if not named:
        raise HapaxError("No feature is named; give a number or a name from the list, one a line.")
    return named


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
            search_aliases=[*_SEARCH, "share feature", "export feature"],
            inputs=[
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                widget(
                    io.String,
                    "feature",
                    default="1",
                    tooltip="Which one: its number in the list, or its name, as in: line sketch.",
                ),
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
            search_aliases=[*_SEARCH, "share"],
            is_output_node=True,
            inputs=[
                DIRECTION.Input("direction", tooltip="The direction to save."),
                widget(
                    io.String,
                    "filename",
                    default="my_direction",
                    tooltip="Name of the file in models/hapax/directions; folders with / are made.",
                ),
                widget(
                    io.Boolean,
                    "overwrite",
                    default=False,
                    tooltip="Replace a file of that name. Off, a number is added to the new file's name instead.",
                ),
            ],
            outputs=[
                io.String.Output("FILE", display_name="saved_as", tooltip="The file, as Load Direction lists it.")
            ],
        )

    @classmethod
    def execute(cls, direction: Direction, filename: str, overwrite: bool) -> io.NodeOutput:
        """Save."""
        path = folders.new_model_file(filename, KIND)
        path = path if overwrite else free_path(path)
        direction.save(path)
        name = folders.name_of(path)
        return io.NodeOutput(name, ui=ui.PreviewText(f"saved as {name}"))


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
            search_aliases=_SEARCH,
            inputs=[
                widget(
                    io.Combo,
                    "direction_name",
                    options=folders.model_files(KIND),
                    tooltip="A file in models/hapax/directions; press R to see new ones.",
                ),
                widget(
                    io.Boolean,
                    "any_checkpoint",
                    default=False,
                    tooltip="Allow it on other checkpoints of the same family than the one it was made with, such as a "
                    "fine-tune. It may push less well there.",
                ),
            ],
            outputs=[
                DIRECTION.Output("DIRECTION", display_name="direction", tooltip="For Apply Direction."),
                io.Image.Output("IMAGE", display_name="thumbnail", tooltip="What it looks like; grey if it has none."),
                io.String.Output("INFO", display_name="info", tooltip="What it is, and what it was made with."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, direction_name: str, **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(direction_name)

    @classmethod
    def execute(cls, direction_name: str, any_checkpoint: bool) -> io.NodeOutput:
        """Load."""
        direction = Direction.load(folders.model_file(direction_name))
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
            search_aliases=[*_SEARCH, "direction", "slider"],
            inputs=[
                io.Model.Input("model", tooltip="A model of the family that the direction was made with."),
                DIRECTION.Input("direction", tooltip="From Load Direction or Feature to Direction."),
                strength_widget(3.0, 64.0),
                *scope_widgets(WINDOWS[0][1]),
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
    ) -> io.NodeOutput:
        """Push."""
        site = fitting_site(model, direction.made_for, "The direction was made", _DIRECTION)
        scope = scope_of(model, start_percent, end_percent, conditioning, norm_limit, mask)
        if not strength:
            return io.NodeOutput(model.clone())
        return io.NodeOutput(add_tap(model, site, direction.tap(strength, scope)))


class MixPrompts(io.ComfyNode):
    """Mix Prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "MixPrompts",
            "Mix Prompts",
            "steering",
            description="Make a share of the pictures from a prompt that names the rare attribute, and the others from "
            "the usual one. This is how the RAIGen paper amplifies what is rare. Each picture of a batch gets one or "
            "the other; with a batch size of 1, let the seed count up with each run.",
            search_aliases=[*_SEARCH, "prompt mixing", "fair prompts", "random prompt"],
            inputs=[
                io.Conditioning.Input("usual", tooltip="The bare prompt, as in: a photo of a firefighter."),
                io.Conditioning.Input(
                    "naming", tooltip="The prompt that names the attribute, as in: a photo of a woman firefighter."
                ),
                widget(
                    io.Float,
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the pictures that are made from the naming prompt.",
                ),
                widget(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Decides which: consecutive seeds take turns, so that the share is exact. Set it to "
                    "increment, like the sampler's.",
                ),
                widget(
                    io.Int,
                    "batch_size",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Pictures in the latent's batch. Picture i of it counts as seed + i.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("CONDITIONING", display_name="positive", tooltip="For the sampler's positive."),
                io.String.Output("CHOICE", display_name="choice", tooltip="Which pictures the naming prompt makes."),
            ],
        )

    @classmethod
    def execute(cls, usual: list, naming: list, share: float, seed: int, batch_size: int) -> io.NodeOutput:
        """Choose for each picture."""
        rows = chosen_rows(share, seed, batch_size)
        said = ", ".join(f"{i + 1} {'naming' if chosen else 'usual'}" for i, chosen in enumerate(rows))
        return io.NodeOutput(mixed(usual, naming, rows), said)


NODES = [
    AmplifyFeature,
    AmplifyFeaturesAdvanced,
    FeatureToDirection,
    SaveDirection,
    LoadDirection,
    ApplyDirection,
    MixPrompts,
]

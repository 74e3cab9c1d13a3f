"""Nodes that turn features up or down at the model, and the widgets that say how far, when and where."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from ..core.amplify import WINDOWS
from ..core.errors import HapaxError
from ..core.feature_set import MODES, Feature, FeatureSet, Mode
from ..core.steering import Scope
from .comfy_taps import add_tap
from .fitting import fitting_site
from .schema import FEATURES, io, schema, widget
from .widgets import feature_widget

SEARCH = ["hapax", "steer", "amplify"]
_FEATURES = "use the model that they were found in, or harvest and find with this one"
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
        widget(
            io.Boolean,
            "asymmetric",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Push only the picture that each step predicts, not its way back to the noise (Asyrp). It goes "
            "much further, so take a small strength; each pushed step takes twice as long. For the samplers euler and "
            "ddim.",
        ),
    ]


def profile_widget() -> Any:
    """How the push changes on its way."""
    return widget(
        io.String,
        "profile",
        default="",
        optional=True,
        advanced=True,
        tooltip="How the push changes on its way, as shares of the denoising with factors: 0: 1, 0.5: 0.2 goes from "
        "all of it at the first noise to a fifth halfway, and stays there. Empty takes the direction's own profile, if "
        "it has one.",
    )


def profile_of(model: Any, text: str) -> list[tuple[float, float]] | None:
    """The (progress, factor) pairs that `profile_widget` means, for this MODEL's schedule; None for an empty one.

    Raises:
        HapaxError: a part that is no share with a factor.
    """
    table = []
    for part in filter(str.strip, re.split(r"[,;\n]", text)):
        share, _, factor = part.partition(":")
        try:
            percent, value = float(share), float(factor)
        except ValueError:
            percent, value = math.nan, math.nan
        if not (0 <= percent <= 1 and math.isfinite(value)):
            raise HapaxError(
                f"The profile has {part.strip()!r}; give shares of the denoising from 0 to 1, each with a factor, as "
                "in 0: 1, 0.5: 0.2."
            )
        table.append((progress_at(model, percent), value))
    return table or None


def scope_of(
    model: Any,
    start_percent: float,
    end_percent: float,
    conditioning: str,
    norm_limit: float,
    mask: Tensor | None,
    asymmetric: bool = False,
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
    return Scope(start, end, rows, mask, norm_limit or None, asymmetric=asymmetric)


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
            search_aliases=[*SEARCH, "turn up", "boost feature"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the features were found in."),
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                feature_widget(),
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
            search_aliases=[*SEARCH, "suppress", "remove feature", "turn down"],
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
                    "away. multiply makes it 1 + strength times as strong where it shows already. approach goes that "
                    "part of the way to how it is by nature, and ends as the feature shows.",
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
        asymmetric: bool = False,
    ) -> io.NodeOutput:
        """Turn."""
        scope = scope_of(model, start_percent, end_percent, conditioning, norm_limit, mask, asymmetric)
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


NODES = [AmplifyFeature, AmplifyFeaturesAdvanced]

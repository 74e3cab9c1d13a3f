"""Nodes that keep guidance modules in files and put them on a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import HapaxError
from ..core.invdiff.files import describe_guidance, load_guidance, made_for, save_guidance
from ..core.invdiff.module import GuidanceModule
from ..core.steering import Scope
from . import devices, folders
from .comfy_sites import family_of
from .comfy_taps import KEY, add_tap
from .fitting import fitting_site
from .schema import GUIDANCE, io, schema, widget
from .steering import scope_of, scope_widgets
from .training_set import SEARCH
from .widgets import any_checkpoint_widget, content_widget, file_widget, save_model_file, save_widgets

KIND = "guidance"
_REMEDY = "use the model that it was made with, or turn on any_checkpoint in Load InvDiff Guidance"


class SaveInvDiffGuidance(io.ComfyNode):
    """Save InvDiff Guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SaveInvDiffGuidance",
            "Save InvDiff Guidance",
            "debias",
            description="Save a guidance module to models/hapax/guidance, to share like a LoRA.",
            search_aliases=[*SEARCH, "share"],
            is_output_node=True,
            inputs=[
                GUIDANCE.Input("guidance", tooltip="The module to save."),
                *save_widgets(KIND, "my_guidance"),
            ],
            outputs=[
                io.String.Output(
                    "FILE", display_name="saved_as", tooltip="The file, as Load InvDiff Guidance lists it."
                )
            ],
        )

    @classmethod
    def execute(cls, guidance: GuidanceModule, filename: str, overwrite: bool) -> io.NodeOutput:
        """Save."""
        return save_model_file(KIND, filename, overwrite, lambda path: save_guidance(guidance, path))


class LoadInvDiffGuidance(io.ComfyNode):
    """Load InvDiff Guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadInvDiffGuidance",
            "Load InvDiff Guidance",
            "debias",
            description="Load a guidance module from models/hapax/guidance: one of Save InvDiff Guidance, or of the "
            "command hapax invdiff train.",
            search_aliases=SEARCH,
            inputs=[
                file_widget(KIND, "guidance_name"),
                any_checkpoint_widget("trained on", "It may balance less well there."),
                content_widget(),
            ],
            outputs=[
                GUIDANCE.Output("GUIDANCE", display_name="guidance", tooltip="For Apply InvDiff Guidance."),
                io.String.Output("INFO", display_name="info", tooltip="What it is, and what it was trained on."),
            ],
        )

    @classmethod
    def validate_inputs(cls, guidance_name: str | None = None, content: str | None = "") -> bool | str:
        """Say what is missing."""
        return folders.valid(folders.model_file, guidance_name, content)

    @classmethod
    def fingerprint_inputs(cls, guidance_name: str, content: str = "", **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(guidance_name, content)

    @classmethod
    def execute(cls, guidance_name: str, any_checkpoint: bool, content: str = "") -> io.NodeOutput:
        """Load."""
        # Weights loaded in inference mode could never meet a gradient.
        with torch.inference_mode(False):
            module = load_guidance(folders.model_file(guidance_name, content))
        info = describe_guidance(module)
        if any_checkpoint:
            module.meta.pop("model", None)
        return io.NodeOutput(module, info)


class ApplyInvDiffGuidance(io.ComfyNode):
    """Apply InvDiff Guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        start, end, rows, _, mask, _ = scope_widgets(1.0)
        return schema(
            "ApplyInvDiffGuidance",
            "Apply InvDiff Guidance",
            "debias",
            description="Let the model show what it knows more evenly. Put it between the loader and the sampler; it "
            "goes together with LoRAs, directions, amplified features and any sampler.",
            search_aliases=[*SEARCH, "guidance", "balance"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the module was trained on."),
                GUIDANCE.Input("guidance", tooltip="From Train InvDiff Guidance or Load InvDiff Guidance."),
                widget(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How far to go. 0 changes nothing at all, 1 is what was trained; more overshoots.",
                ),
                start,
                end,
                rows,
                mask,
            ],
            outputs=[io.Model.Output("MODEL", display_name="model", tooltip="The model with the guidance on it.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        guidance: GuidanceModule,
        strength: float,
        start_percent: float,
        end_percent: float,
        conditioning: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Guide."""
        site = fitting_site(model, made_for(guidance), "The guidance module was made", _REMEDY)
        if site.name == "eps" and family_of(model.model.diffusion_model) == "Flux":
            raise HapaxError("A guidance module can't act at eps of Flux in ComfyUI; train one at one of its blocks.")
        scope = _within(guidance, scope_of(model, start_percent, end_percent, conditioning, 0.0, mask))
        if not strength:
            return io.NodeOutput(model.clone())
        edit = guidance.tap(strength, scope)
        clone = add_tap(model, site, edit)
        held = devices.patcher_of(guidance)
        clone.set_additional_models(f"{KEY}.guidance.{id(guidance)}", [held])
        return io.NodeOutput(clone)


def _within(guidance: GuidanceModule, scope: Scope) -> Scope:
    """The part of a window in which the module was trained.

    Raises:
        HapaxError: there is none, so that it would do nothing.
    """
    start, end = max(scope.start, guidance.scope.start), min(scope.end, guidance.scope.end)
    if start > end:
        trained = f"{guidance.scope.start:g} to {guidance.scope.end:g}"
        raise HapaxError(f"The guidance module was trained for {trained} of the denoising; choose a part of that.")
    return replace(scope, start=start, end=end)


NODES = [SaveInvDiffGuidance, LoadInvDiffGuidance, ApplyInvDiffGuidance]

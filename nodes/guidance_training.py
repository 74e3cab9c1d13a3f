"""Train InvDiff Guidance: the module is trained inside ComfyUI, on its own model, which stays as it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import HapaxError
from ..core.fits import check_fits
from ..core.invdiff.files import describe_guidance, made_for, module_fingerprint
from ..core.invdiff.module import GuidanceModule
from ..core.invdiff.objective import Risk
from ..core.invdiff.training import GuidanceConfig, train_guidance
from . import devices, folders
from .bias_groups import BiasGroups
from .comfy_sites import family_of, site_of
from .denoising import call_denoiser
from .fitting import fitting_site, identity
from .guidance_plot import LossPlot
from .recording import SITE_TIP
from .schema import GROUPS, GUIDANCE, io, progress, schema, to_image, ui, widget
from .training_set import SEARCH
from .widgets import EXACT, seed_widget

_REMEDY = "infer groups with this model, or train with the one that they were inferred with"
_START_REMEDY = "train on with the model that it was made for, or begin a new one"
_RUN_TIP = (
    "Name of the folder in output/hapax for what is learnt so far. The same settings go on in the same folder, so a "
    "training that was interrupted loses 50 steps at most; other settings get a folder of their own."
)
# Written while the model's own steps can be interrupted anywhere.
_SAVED_EVERY = 50
_DRAWN = 60


class TrainInvDiffGuidance(io.ComfyNode):
    """Train InvDiff Guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "TrainInvDiffGuidance",
            "Train InvDiff Guidance",
            "debias",
            description="Learn a small module that makes the kinds of pictures that a model knows about equally "
            "likely. The model itself stays as it is, bit for bit. The curve is shown while it learns; interrupted and "
            "queued again, it goes on.",
            search_aliases=[*SEARCH, "train", "fine-tune", "guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the groups were inferred with."),
                GROUPS.Input("groups", tooltip="From Infer Bias Groups."),
                widget(io.Int, "steps", default=1500, min=1, max=1_000_000, tooltip="Steps of training."),
                widget(
                    io.Int,
                    "batch_size",
                    default=48,
                    min=1,
                    max=4096,
                    tooltip="Pictures a step. If memory runs out, raise accumulation instead of lowering this.",
                ),
                widget(
                    io.Int,
                    "accumulation",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="Parts in which a step's pictures are computed, one after the other: 8 needs an eighth of "
                    "the memory.",
                ),
                widget(
                    io.Float,
                    "learning_rate",
                    default=2e-3,
                    min=1e-7,
                    max=1.0,
                    step=1e-4,
                    round=1e-7,
                    tooltip="The largest rate; it rises over the first 50 steps and falls to nothing.",
                ),
                seed_widget("Of the first weights, and of the pictures, times and noises of each step.", most=EXACT),
                widget(io.String, "site", default="auto", advanced=True, tooltip=SITE_TIP),
                widget(
                    io.Float,
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="The module acts from here on, as a share of the denoising: 0 is the first noise.",
                ),
                widget(
                    io.Float,
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="The module acts up to here.",
                ),
                widget(
                    io.Float,
                    "variance_weight",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    advanced=True,
                    tooltip="How much differences between the groups' losses count on top of their mean, as in the "
                    "InvDiff paper. 0 balances the groups and no more.",
                ),
                widget(
                    io.Combo,
                    "risk",
                    options=["variance", "deviation", "worst"],
                    default="variance",
                    advanced=True,
                    tooltip="What is meant by differences: variance of the losses, its root, or the worst group's.",
                ),
                widget(io.String, "run", default="guidance", advanced=True, tooltip=_RUN_TIP),
                GUIDANCE.Input(
                    "guidance",
                    optional=True,
                    tooltip="A module to go on with, for a second round: half the steps and half the learning rate do. "
                    "Empty begins a new one.",
                ),
            ],
            outputs=[
                GUIDANCE.Output(
                    "GUIDANCE", display_name="guidance", tooltip="For Apply InvDiff Guidance, Save InvDiff Guidance."
                ),
                io.Image.Output("PLOT", display_name="plot", tooltip="The loss over the steps."),
                io.String.Output("INFO", display_name="info", tooltip="What it is, and what it was trained on."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        groups: BiasGroups,
        steps: int,
        batch_size: int,
        accumulation: int,
        learning_rate: float,
        seed: int,
        site: str,
        start_percent: float,
        end_percent: float,
        variance_weight: float,
        risk: Risk,
        run: str,
        guidance: GuidanceModule | None = None,
    ) -> io.NodeOutput:
        """Train."""
        check_fits("The groups were inferred", groups.made_for, identity(model), _REMEDY)
        if guidance is not None:
            fitting_site(model, made_for(guidance), "The guidance module to go on with was made", _START_REMEDY)
            site = guidance.shape.site if site.strip() == "auto" else site
        # With a variance weight groups should differ by nothing but themselves: each needs a seat.
        seats = min(groups.weights.shape[1], batch_size) if variance_weight else GuidanceConfig.seats
        config = GuidanceConfig(
            site=_trained_site(model, site.strip()),
            start=start_percent,
            end=end_percent,
            steps=steps,
            batch_size=batch_size,
            seats=seats,
            accumulation=accumulation,
            lr=learning_rate,
            variance_weight=variance_weight,
            risk=risk,
            save_every=_SAVED_EVERY,
            seed=seed,
        )
        plot = LossPlot(steps)
        module = _train(model, groups, config, _folder(run, model, groups, config, guidance), plot, guidance)
        info = describe_guidance(module)
        return io.NodeOutput(module, to_image([plot.picture()]), info, ui=ui.PreviewText(info))


def _trained_site(model: Any, site: str) -> str:
    """The site that is meant.

    Raises:
        HapaxError: there is no such site, or it is Flux's output, where ComfyUI doesn't show what goes in as tokens.
    """
    chosen = str(site_of(model, site))
    if chosen == "eps" and family_of(model.model.diffusion_model) == "Flux":
        raise HapaxError("A guidance module can't act at eps of Flux in ComfyUI; choose auto, or one of its blocks.")
    return chosen


def _folder(run: str, model: Any, groups: BiasGroups, config: GuidanceConfig, start: GuidanceModule | None) -> Path:
    """The folder of a training in output/hapax; each model, set of pictures, start and settings has one of its own."""
    known = [identity(model)["model"], asdict(config), *([] if start is None else [module_fingerprint(start)])]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for tensor in (groups.pictures.latents, groups.pictures.prompt, groups.weights, groups.probabilities):
        digest.update(tensor.contiguous().numpy().tobytes())
    return folders.output_folder(f"{run}-{digest.hexdigest()[:8]}")


def _train(
    model: Any, groups: BiasGroups, config: GuidanceConfig, folder: Path, plot: LossPlot, start: GuidanceModule | None
) -> GuidanceModule:
    pictures, report, every = groups.pictures, progress(config.steps), max(1, config.steps // _DRAWN)

    def advance(done: int, total: int, info: dict[str, Any]) -> None:
        plot.add(done, info["loss"])
        report(done, plot.image() if done % every == 0 or done == total else None)

    module = call_denoiser(
        model,
        pictures.prompts,
        groups.conditionings,
        pictures.latents.shape[1:],
        -(-config.batch_size // config.accumulation),
        lambda denoising: train_guidance(
            denoising,
            pictures,
            groups.weights,
            config,
            probabilities=groups.probabilities,
            start=start,
            folder=folder,
            progress=advance,
            meta={"groups_by": groups.by},
        ),
        site=config.site,
        train=True,
    )
    devices.put_back(module)
    return module


NODES = [TrainInvDiffGuidance]

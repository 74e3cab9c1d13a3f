"""Nodes that make many pictures and record what the model does meanwhile."""

from __future__ import annotations

import time
from typing import Any

from ..core.activations import ActivationStore
from ..core.collect import SAVE_SECONDS, Recording, batches
from ..core.errors import HapaxError
from ..core.taps import Recorder
from . import folders
from .comfy_sites import site_of
from .comfy_taps import add_tap
from .fingerprint import conditioning_fingerprint
from .sampling import SEEDS, Sampling, sampling_widgets
from .schema import ACTIVATIONS, CLIP_SCORER, io, progress, schema, ui, widget
from .stores import Chosen, Picture, contact_sheet, keep, open_store, plan, provenance, summary

_SEARCH = ["hapax", "record", "activations", "harvest", "audit"]
RUN_TIP = (
    "Name of the folder in output/hapax. The same settings go on in the same folder, so a run that was "
    "interrupted resumes and a larger count adds pictures; other settings get a folder of their own."
)
PROMPT_TIP = (
    "The prompt in words, to show beside the pictures and to tell recordings apart: a CONDITIONING doesn't say what "
    "it was made from. It changes nothing in the pictures."
)
SCORER_TIP = (
    "From Load CLIP Scorer, optional: also record each picture's CLIP embedding, at full size and once. Find Rare "
    "Features needs them, and makes them from the thumbnails where they are missing."
)
SITE_TIP = (
    "Where in the model to listen. auto is the middle block of SD1.x, SD2.x and SDXL, and the middle one of the double "
    "blocks of SD3 and Flux (double.9 and the like); eps is the model's output."
)
STEPS_TIP = "How many of the sampling steps to record of each picture, evenly spread."
POSITIONS_TIP = "How many places of the picture to record, evenly spread; all, where the site has no more."

_TIPS = {
    "steps": "Denoising steps a picture, as in KSampler.",
    "cfg": "Guidance, as in KSampler. High values hide what is rare.",
    "sampler_name": "Those that draw noise on the way (ancestral, SDE) make one picture at a time, so that a picture "
    "depends on nothing but its seed.",
    "batch_size": "Pictures made at once: more is faster and needs more memory. It changes nothing else.",
}


def record_widgets() -> list[Any]:
    """The inputs that say what is recorded of each picture."""
    return [
        widget(io.String, "site", default="auto", advanced=True, tooltip=SITE_TIP),
        widget(io.Int, "record_steps", default=5, min=1, max=100, advanced=True, tooltip=STEPS_TIP),
        widget(io.Int, "positions", default=64, min=1, max=1 << 16, advanced=True, tooltip=POSITIONS_TIP),
    ]


def outputs() -> list[Any]:
    """What the recording nodes give."""
    return [
        ACTIVATIONS.Output(
            "ACTIVATIONS",
            display_name="activations",
            tooltip="What was recorded, with the pictures: for Train SAE and Find Rare Features.",
        ),
        io.Image.Output("SHEET", display_name="sheet", tooltip="The first 24 pictures: what the prompt usually gives."),
        io.String.Output("SUMMARY", display_name="summary", tooltip="How much was recorded, and where it lies."),
    ]


def result(store: Chosen, new: int) -> io.NodeOutput:
    """Hand a store on, with its pictures to look at."""
    sheet, text = contact_sheet(store), summary(store, new)
    return io.NodeOutput(store, sheet, text, ui=ui.PreviewText(text))


class HarvestActivations(io.ComfyNode):
    """Harvest Activations."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "HarvestActivations",
            "Harvest Activations",
            "record",
            description="Make many pictures from one prompt, each from its own seed, and record what the model does "
            "inside while it makes them. This is the first step of an audit. It can be interrupted at any time: queued "
            "again, it goes on where it stopped.",
            search_aliases=[*_SEARCH, "many pictures", "batch sampler"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to listen to, with LoRAs and the like already on it."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt. Leave it bare, such as a photo of a doctor: what "
                    "the model adds by itself is what is looked for.",
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt; without effect at cfg 1."),
                io.Vae.Input("vae", tooltip="Turns the latents into the pictures that you will see."),
                widget(
                    io.Int,
                    "count",
                    default=200,
                    min=1,
                    max=1_000_000,
                    tooltip="How many pictures. Something that one picture in 50 shows needs 250 or more to be found: "
                    "nothing is called rare on fewer than 5 examples.",
                ),
                widget(
                    io.Int,
                    "first_seed",
                    default=0,
                    min=0,
                    max=SEEDS - 1,
                    control_after_generate=False,
                    tooltip="Seed of the first picture; the next ones follow it, one by one. KSampler makes the same "
                    "picture from the same seed, at batch size 1.",
                ),
                *sampling_widgets(steps=20, cfg=7.0, batch_size=4, tips=_TIPS),
                widget(io.String, "run", default="harvest", tooltip=RUN_TIP),
                widget(io.String, "prompt", default="", multiline=True, tooltip=PROMPT_TIP),
                *record_widgets(),
                CLIP_SCORER.Input("scorer", optional=True, tooltip=SCORER_TIP),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        negative: list,
        vae: Any,
        count: int,
        first_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        batch_size: int,
        run: str,
        prompt: str,
        site: str,
        record_steps: int,
        positions: int,
        scorer: Any = None,
    ) -> io.NodeOutput:
        """Sample what is missing, record it, hand on what was asked for."""
        sampling = Sampling(positive, negative, vae, sampler_name, scheduler, steps, cfg, width, height, batch_size)
        chosen = site_of(model, site.strip())
        recording = plan(model, chosen, sampling.sigmas(model), sampling.latent_size(), record_steps, positions)
        made = provenance(
            model,
            recording,
            scorer,
            positive=conditioning_fingerprint(positive),
            negative=conditioning_fingerprint(negative),
            **{"sampler": sampler_name, "scheduler": scheduler, "steps": steps, "cfg": cfg, "size": [width, height]},
        )
        seeds = [(first_seed + i) % SEEDS for i in range(count)]
        with open_store(run, made, chosen) as store:
            new = harvest(store, model, sampling, recording, prompt, seeds, scorer)
        return result(Chosen(store.folder, [(prompt, seed) for seed in seeds]), new)


def harvest(
    store: ActivationStore,
    model: Any,
    sampling: Sampling,
    recording: Recording,
    prompt: str,
    seeds: list[int],
    scorer: Any,
) -> int:
    """Make and record the pictures of `seeds` that a store lacks; return how many.

    Batches are cut from `seeds` as they are. One of which a part is missing is made whole and the part recorded, so
    that a run that was broken off and resumed gives the very bits of an unbroken one: kernels round by batch size.
    """
    todo = [part for part in batches(seeds, sampling.batch()) if any((prompt, seed) not in store for seed in part)]
    report, done, new, saved = progress(sum(map(len, todo)) * sampling.steps), 0, 0, time.monotonic()
    for batch in todo:
        recorder = Recorder(recording.progress, recording.positions)
        tapped = add_tap(model, recording.site, recorder)

        def step(number: int, preview: Any, done: int = done, size: int = len(batch)) -> None:
            report(done * sampling.steps + number * size, preview)

        pictures = sampling.pictures(tapped, batch, step)
        rows = enumerate(zip(batch, pictures, strict=True))
        made = [Picture(prompt, seed, recorder.take(row)[0], picture) for row, (seed, picture) in rows]
        new += keep(store, made, recording, scorer)
        done += len(batch)
        # Seen even where previews of unfinished pictures are turned off, which is ComfyUI's default.
        report(done * sampling.steps, pictures[0])
        if time.monotonic() - saved > SAVE_SECONDS:
            store.flush()
            saved = time.monotonic()
    return new


class LoadActivations(io.ComfyNode):
    """Load Activations."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadActivations",
            "Load Activations",
            "record",
            description="Open what Harvest Activations or Collect recorded before, without making a picture.",
            search_aliases=[*_SEARCH, "open recording"],
            inputs=[
                widget(
                    io.Combo,
                    "run",
                    options=folders.output_folders("store.json"),
                    tooltip="A folder in output/hapax; press R to see new ones.",
                )
            ],
            outputs=outputs(),
        )

    @classmethod
    def validate_inputs(cls, run: str | None = None) -> bool | str:
        """Say what is missing."""
        return folders.valid(folders.existing_output_folder, run)

    @classmethod
    def fingerprint_inputs(cls, run: str) -> str:
        """Read again when pictures were added."""
        return folders.output_state(run)

    @classmethod
    def execute(cls, run: str) -> io.NodeOutput:
        """Open all of it."""
        store = Chosen(folders.existing_output_folder(run))
        if not len(store):
            raise HapaxError(f"The recording {run!r} holds no pictures yet; run Harvest Activations into it first.")
        return result(store, 0)


NODES = [HarvestActivations, LoadActivations]

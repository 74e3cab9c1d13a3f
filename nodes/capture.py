"""Nodes that record from people's own graphs: Capture before the sampler, Collect after it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.collect import Recording
from ..core.errors import HapaxError
from ..core.sites import Site
from ..core.taps import Recorder, Step
from .comfy_paths import sampler_name
from .comfy_sites import site_of
from .comfy_taps import Run, add_tap, around_sampling
from .fingerprint import conditioning_fingerprint
from .recording import PROMPT_TIP, RUN_TIP, SCORER_TIP, outputs, record_widgets, result
from .schema import CLIP_SCORER, RECORDING, io, schema, to_pictures, widget
from .stores import Chosen, Picture, keep, open_store, plan, provenance

# Runs that are remembered; a graph with more samplers than this behind one Capture is unheard of.
_RUNS = 8
_SEARCH = ["hapax", "record", "activations", "own graph"]


@dataclass(frozen=True)
class Captured:
    """What was recorded in one sampling run.

    Attributes:
        latents: `[B, C, H, W]` that the run returned, by which it is found again.
        tokens: `[S, P, C]` per row.
        recording: which steps and places those are.
        numbers: what each row's picture is known by in place of a seed.
        sampling: how the pictures were made.
    """

    latents: Tensor
    tokens: list[Tensor]
    recording: Recording
    numbers: list[int]
    sampling: dict[str, Any]


class Recordings:
    """What a Capture node has recorded lately. It outlives the node's run, because ComfyUI keeps outputs."""

    def __init__(self, model: Any, site: Site, record_steps: int, positions: int) -> None:
        self.model, self.site = model, site
        self.record_steps, self.positions = record_steps, positions
        self.runs: deque[Captured] = deque(maxlen=_RUNS)
        self._recorder: Recorder | None = None

    def tapped(self) -> Any:
        """The model with the recording on it."""

        def tap(h: Tensor, step: Step) -> None:
            if self._recorder is not None:
                self._recorder(h, step)

        def around(sample: Callable[[], Tensor], run: Run) -> Tensor:
            return self.record(sample, run)

        return around_sampling(add_tap(self.model, self.site, tap), around)

    def record(self, sample: Callable[[], Tensor], run: Run) -> Tensor:
        """Sample and remember what was recorded meanwhile; nothing is remembered of a run that was interrupted."""
        patcher = run.guider.model_patcher
        size = run.noise.shape[-2], run.noise.shape[-1]
        recording = plan(patcher, self.site, run.sigmas, size, self.record_steps, self.positions)
        self._recorder = recorder = Recorder(recording.progress, recording.positions)
        # The guider lets go of its conditionings when it is done.
        conds = conditioning_fingerprint(run.guider.original_conds)
        try:
            latents = sample()
        finally:
            self._recorder = None
        sampling = {
            "conditioning": conds,
            "cfg": float(getattr(run.guider, "cfg", 1.0)),
            "sampler": sampler_name(run.sampler),
            "sigmas": [round(sigma, 6) for sigma in run.sigmas.tolist()],
            "latent": list(run.noise.shape[1:]),
        }
        numbers = [_number(run, row) for row in range(len(latents))]
        tokens = [recorder.take(row)[0] for row in recorder.samples]
        self.runs.append(Captured(latents.detach().cpu().float().clone(), tokens, recording, numbers, sampling))
        return latents

    def find(self, latents: Tensor) -> Captured:
        """Find the newest run that returned these latents.

        Raises:
            HapaxError: none did.
        """
        wanted = latents.detach().cpu().float()
        for captured in reversed(self.runs):
            known = captured.latents
            # A server may keep latents in half precision between nodes.
            if known.shape == wanted.shape and torch.allclose(known, wanted, rtol=1e-2, atol=1e-2):
                return captured
        raise HapaxError(
            f"This latent is not one that was sampled with the captured model (it remembers {len(self.runs)} runs); "
            "wire Capture's MODEL into the sampler and that sampler's LATENT, unchanged, into Collect."
        )


def _number(run: Run, row: int) -> int:
    """Tell pictures apart: the seed for the first row of a run from an empty latent, larger numbers for all others."""
    number = (run.seed or 0) + (row << 64)
    if run.latent is not None and bool(run.latent.any()):
        start = run.latent[row % len(run.latent)].detach().float().cpu().contiguous()
        number += int.from_bytes(hashlib.sha256(start.numpy().tobytes()).digest()[:4], "big") << 80
    return number


class Capture(io.ComfyNode):
    """Capture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "Capture",
            "Capture Activations",
            "record",
            description="Record from your own graph: put this between the loader and your sampler, and Collect after "
            "it. The pictures are the same with and without it.",
            search_aliases=[*_SEARCH, "capture", "hook model"],
            inputs=[io.Model.Input("model", tooltip="The model that goes to your sampler."), *record_widgets()],
            outputs=[
                io.Model.Output("MODEL", display_name="model", tooltip="The model, listened to: for your sampler."),
                RECORDING.Output("RECORDING", display_name="recording", tooltip="What was heard: for Collect."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, site: str, record_steps: int, positions: int) -> io.NodeOutput:
        """Put the tap on."""
        recordings = Recordings(model, site_of(model, site.strip()), record_steps, positions)
        return io.NodeOutput(recordings.tapped(), recordings)


class Collect(io.ComfyNode):
    """Collect."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "Collect",
            "Collect Activations",
            "record",
            description="Keep what Capture heard while your sampler ran, with the pictures. Queue the graph with many "
            "seeds: each run adds its pictures to the same recording.",
            search_aliases=[*_SEARCH, "collect"],
            is_output_node=True,
            inputs=[
                RECORDING.Input("recording", tooltip="From Capture."),
                io.Latent.Input("latent", tooltip="Straight from the sampler that Capture's model went into."),
                widget(io.String, "run", default="capture", tooltip=RUN_TIP),
                widget(io.String, "prompt", default="", multiline=True, tooltip=PROMPT_TIP),
                io.Vae.Input("vae", optional=True, tooltip="Makes the pictures from the latent; or wire the image."),
                io.Image.Input(
                    "image", optional=True, tooltip="The pictures of that latent, if you have them already."
                ),
                CLIP_SCORER.Input("scorer", optional=True, tooltip=SCORER_TIP),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(
        cls,
        recording: Recordings,
        latent: dict[str, Any],
        run: str,
        prompt: str,
        vae: Any = None,
        image: Tensor | None = None,
        scorer: Any = None,
    ) -> io.NodeOutput:
        """Find the run that made the latent and keep what was recorded in it."""
        captured = recording.find(latent["samples"])
        pictures = _pictures(captured, latent["samples"], vae, image)
        made = provenance(recording.model, captured.recording, scorer, **captured.sampling)
        rows = zip(captured.numbers, captured.tokens, pictures, strict=True)
        batch = [Picture(prompt, number, tokens, picture) for number, tokens, picture in rows]
        with open_store(run, made, recording.site) as store:
            new = keep(store, batch, captured.recording, scorer)
        return result(Chosen(store.folder), new)


def _pictures(captured: Captured, latents: Tensor, vae: Any, image: Tensor | None) -> list[Image.Image]:
    if image is None and vae is None:
        raise HapaxError("Collect has neither a VAE nor an image; wire one of them, so that there is something to see.")
    pictures = to_pictures(vae.decode(latents) if image is None else image)
    if len(pictures) != len(captured.tokens):
        raise HapaxError(
            f"There are {len(pictures)} images for {len(captured.tokens)} latents; wire the images of this latent, "
            "or the VAE in place of them."
        )
    return pictures


NODES = [Capture, Collect]

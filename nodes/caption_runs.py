"""What the nodes share that sample captions: their widgets, the backend, the folder of a recording."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.samplers

from . import folders
from .backend import ComfyBackend
from .comfy_sites import site_of
from .fingerprint import conditioning_fingerprint
from .recording import SITE_TIP
from .schema import io, progress, widget
from .widgets import EXACT

_PARTS = 1000
RUN_TIP = (
    "Name of the folder in output/hapax for what is recorded. The same settings go on in the same folder, so a run "
    "that was interrupted resumes; other settings get a folder of their own."
)


@dataclass(frozen=True)
class CaptionRun:
    """How captions are sampled.

    Attributes:
        backend: the MODEL and its CLIP.
        options: keyword arguments for `CaptionIndex.build`, `compare` or `record_dial`.
    """

    backend: ComfyBackend
    options: dict[str, Any]

    def folder(self, run: str, captions: Sequence[str]) -> Path:
        """The folder of a recording in output/hapax; each set of captions and settings has one of its own."""
        made = self.backend.identity() | {key: value for key, value in self.options.items() if key != "progress"}
        made |= {
            "captions": list(captions),
            # Two text encoders that differ encode everything differently.
            "clip": [conditioning_fingerprint(self.backend.encode(text)) for text in ("", *captions[:1])],
        }
        del made["versions"], made["batch_size"]
        digest = hashlib.sha256(json.dumps(made, sort_keys=True, default=list).encode()).hexdigest()[:8]
        return folders.output_folder(f"{run}-{digest}")


def caption_run(
    model: Any,
    clip: Any,
    *,
    seeds: int,
    first_seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    width: int,
    height: int,
    batch_size: int,
    site: str,
) -> CaptionRun:
    """What the widgets of `run_widgets` mean.

    Raises:
        HapaxError: the model has no such site.
    """
    options = {
        "seeds": range(first_seed, first_seed + seeds),
        "steps": steps,
        "guidance": cfg,
        "batch_size": batch_size,
        "site": str(site_of(model, site.strip())),
        "size": {"width": width, "height": height},
        "progress": _bar(),
    }
    return CaptionRun(ComfyBackend(model, clip, sampler_name, scheduler), options)


def _bar() -> Callable[[str, int, int], None]:
    """A node's bar for work whose size is known only when it begins; an interrupted run ends."""
    report = progress(_PARTS)

    def moved(stage: str, done: int, total: int) -> None:
        report(_PARTS * done // max(1, total))

    return moved


def run_widgets(seeds: int, least: int, seeds_tip: str, steps: int) -> list[Any]:
    """The inputs that say how captions are sampled, `run` and `site` last."""
    samplers, schedulers = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
    return [
        widget(io.Int, "seeds", default=seeds, min=least, max=1 << 20, tooltip=seeds_tip),
        widget(
            io.Int,
            "first_seed",
            default=0,
            min=0,
            max=EXACT - (1 << 20),
            control_after_generate=False,
            tooltip="The first of the seeds; the others follow it. All captions get the same noise, so that only the "
            "words differ.",
        ),
        widget(
            io.Int,
            "steps",
            default=steps,
            min=1,
            max=10000,
            tooltip="Denoising steps, as in KSampler. A few are enough: nobody looks at the pictures.",
        ),
        widget(
            io.Float,
            "cfg",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance, as in KSampler. At 1 there is none, which costs half.",
        ),
        widget(
            io.Combo,
            "sampler_name",
            options=samplers,
            default="euler",
            tooltip="The sampler, as in KSampler. Those that draw noise on the way make one sample at a time.",
        ),
        widget(
            io.Combo,
            "scheduler",
            options=schedulers,
            default="normal",
            tooltip="The spacing of the noise levels, as in KSampler.",
        ),
        widget(
            io.Int,
            "width",
            default=512,
            min=8,
            max=16384,
            step=8,
            tooltip="Width in pixels; use what the model was made for.",
        ),
        widget(io.Int, "height", default=512, min=8, max=16384, step=8, tooltip="Height in pixels."),
        widget(
            io.Int,
            "batch_size",
            default=8,
            min=1,
            max=4096,
            tooltip="Samples made at once, all of one caption: more is faster and needs more memory.",
        ),
        widget(io.String, "site", default="auto", advanced=True, tooltip=SITE_TIP),
    ]


def run_widget(default: str) -> Any:
    """The name of the recording's folder."""
    return widget(io.String, "run", default=default, advanced=True, tooltip=RUN_TIP)

"""What the nodes share that sample captions: their widgets, the backend, the folder of a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import folders
from .backend import ComfyBackend
from .comfy_sites import site_of
from .fingerprint import conditioning_fingerprint, vae_fingerprint
from .recording import SITE_TIP
from .sampling import sampling_widgets
from .schema import io, progress, widget
from .widgets import EXACT

_PARTS = 1000
RUN_TIP = (
    "Name of the folder in output/hapax for what is recorded. The same settings go on in the same folder, so a run "
    "that was interrupted resumes; other settings get a folder of their own."
)

_TIPS = {
    "cfg": "Guidance, as in KSampler. At 1 there is none, which costs half.",
    "sampler_name": "Those that draw noise on the way make one sample at a time.",
    "batch_size": "Samples made at once, all of one caption: more is faster and needs more memory.",
}


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
        if self.backend.vae is not None:
            made["vae"] = vae_fingerprint(self.backend.vae)
        del made["versions"], made["batch_size"]
        return folders.settings_folder(run, made)


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
    vae: Any = None,
) -> CaptionRun:
    """What the widgets of `run_widgets` mean; with a VAE the backend can look at pictures.

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
        "progress": caption_bar(),
    }
    return CaptionRun(ComfyBackend(model, clip, sampler_name, scheduler, vae), options)


def caption_bar() -> Callable[[str, int, int], None]:
    """A node's bar for work whose size is known only when it begins; an interrupted run ends."""
    report = progress(_PARTS)

    def moved(stage: str, done: int, total: int) -> None:
        report(_PARTS * done // max(1, total))

    return moved


_FEW_STEPS = "A few are enough: nobody looks at the pictures."


def run_widgets(seeds: int, least: int, seeds_tip: str, steps: int) -> list[Any]:
    """The inputs that say how captions are sampled, `site` last."""
    return [
        *equal_seeds_widgets(seeds, least, seeds_tip, steps, _FEW_STEPS),
        widget(io.String, "site", default="auto", advanced=True, tooltip=SITE_TIP),
    ]


def equal_seeds_widgets(seeds: int, least: int, seeds_tip: str, steps: int, steps_tip: str) -> list[Any]:
    """The inputs that say how prompts are sampled at equal seeds."""
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
        *sampling_widgets(
            steps=steps, cfg=1.0, batch_size=8, tips=_TIPS | {"steps": f"Denoising steps, as in KSampler. {steps_tip}"}
        ),
    ]


def run_widget(default: str) -> Any:
    """The name of the recording's folder."""
    return widget(io.String, "run", default=default, advanced=True, tooltip=RUN_TIP)

"""The document that an audit is kept as, audit.json: its parts put together in one shape, whoever measured them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from .audit_settings import AuditSettings
from .collect import Recording
from .sae import TrainedSAE

LIMITS = (
    "Only what the model encodes and at least sometimes shows can be found; what it never shows is out of reach.",
    "Shown in says how many pictures look like the feature to CLIP, beyond the gap between its pictures and the rest; "
    "the frequency says on how many its latent fires. Neither is a count of the attribute itself.",
    "Distinctiveness is measured by CLIP, so what CLIP can't see is missed, and what CLIP confuses is confused here.",
    "Names are the nearest of a fixed bank of captions; look at the pictures before you trust one.",
    "Turning a feature up by steering is an extension of the paper, which rewrites prompts instead.",
)


def audit_document(
    *,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    prompts: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    credits: Sequence[str],
    **measured: Any,
) -> dict[str, Any]:
    """The document of `report.schema` with what every audit says of itself: version, date, limits.

    `measured` are parts that not every audit has: `sce`, `naming`, `compass`, `invdiff`.
    """
    from .. import __version__

    return {
        "schema_version": "1.0",
        "hapax_version": __version__,
        "created": now(),
        "model": dict(model),
        "settings": dict(settings),
        "prompts": list(prompts),
        **measured,
        "provenance": dict(provenance),
        "limits": list(LIMITS),
        "credits": list(credits),
    }


def settings_row(settings: AuditSettings, recording: Recording, clip: Mapping[str, str]) -> dict[str, Any]:
    """What an audit was asked for, with what was recorded of each picture; `clip` has its name and fingerprint."""
    sampling = settings.sampling
    return {
        "images": settings.images,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "seed": settings.seed,
        "min_support": settings.min_support,
        "steps_recorded": list(recording.progress),
        "positions": len(recording.positions),
        "normalize": settings.normalize,
        "clip": dict(clip),
        "sae": asdict(settings.sae),
        **({"size": sampling.size} if sampling.size else {}),
    }


def sae_row(trained: TrainedSAE, path: str) -> dict[str, Any]:
    """How well an autoencoder describes the model, and where it lies beside the document."""
    last = {key: trained.metrics[key][-1] for key in ("fvu", "l0", "dead")}
    return {"path": path, **last, "prefixes": list(trained.sae.prefix_sizes)}


def now() -> str:
    """The time, to the second, with its zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def versions() -> dict[str, str]:
    """The versions of what an audit of a diffusers pipeline is made with."""
    import diffusers
    import open_clip
    import transformers

    modules = {"torch": torch, "diffusers": diffusers, "transformers": transformers, "open_clip": open_clip}
    return {"python": sys.version.split()[0]} | {name: module.__version__ for name, module in modules.items()}

"""Features found elsewhere than in `hapax audit`, kept as one: audit.json, report.html, pictures, autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .audit_document import audit_document, sae_row
from .contact_sheet import laid_over
from .durable import write_file, writing
from .feature_file import SAE_FILE, save_features
from .feature_set import Feature, FeatureSet
from .gallery import feature_row
from .report import save_audit, write_report
from .sae import save_sae

_SHEET_COLUMNS = 8


def write_feature_audit(
    features: FeatureSet,
    folder: Path,
    *,
    model_name: str = "",
    provenance: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    invdiff: Mapping[str, Any] | None = None,
    credits: Sequence[str] = (),
) -> Path:
    """Write what was found into a folder, in the shape that `hapax audit` gives it; return the report's path.

    Args:
        features: what was found.
        folder: of its own; it must exist.
        model_name: what the report calls the model; by default its architecture.
        provenance: has `reproduce`, what to do to get the same numbers, and whatever else belongs there.
        files: further files to put beside the report, by name.
        invdiff: what a guidance module changed, as audit.json holds it.
        credits: whom the pictures and weights come from.

    Raises HapaxError if something can't be written.
    """
    with writing(folder):
        for name in ("images", "sae"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in (files or {}).items():
        write_file(folder / name, content)
    save_sae(features.trained.sae, folder / SAE_FILE)
    save_features(features, folder)
    rows = [_feature(feature, folder) for feature in features.features]
    prompt = {
        "prompt": features.prompt,
        "index": 0,
        "images": len(features.seeds),
        "scored": len(features.table),
        "seeds": features.seeds,
        "features": rows,
        "sample_sheet": _save(_sheet(features.sheet), folder, "sheet"),
        "sae": sae_row(features.trained, SAE_FILE) if features.trained.metrics else None,
    }
    audit = _assemble(features, model_name, prompt, dict(provenance), list(credits))
    if invdiff is not None:
        audit["invdiff"] = dict(invdiff)
    save_audit(audit, folder / "audit.json")
    return write_report(audit, folder)


def _feature(feature: Feature, folder: Path) -> dict[str, Any]:
    lit = laid_over(feature.pictures, feature.heat)
    entries = []
    for seed, level, picture, heat in zip(feature.seeds, feature.activations, feature.pictures, lit, strict=True):
        image = _save(picture, folder, f"s{seed}")
        over = _save(heat, folder, f"f{feature.latent}-s{seed}")
        entries.append({"seed": seed, "activation": level, "image": image, "heatmap": over})
    return feature_row(0, feature.row | {"prevalence": feature.prevalence}, feature.latents, feature.labels, entries)


def _sheet(pictures: Tensor) -> Tensor:
    """Pictures [n, H, W, 3] side by side, eight a row; a last row that isn't full is left out."""
    columns = min(_SHEET_COLUMNS, len(pictures))
    whole = pictures[: len(pictures) // columns * columns]
    return torch.cat([torch.cat(list(row), 1) for row in whole.split(columns)])


def _save(picture: Tensor, folder: Path, name: str) -> str:
    path = f"images/{name}.png"
    with writing(folder / path):
        Image.fromarray(picture.numpy()).save(folder / path)
    return path


def _assemble(
    features: FeatureSet, model_name: str, prompt: dict[str, Any], provenance: dict[str, Any], credits: list[str]
) -> dict[str, Any]:
    from .. import __version__

    made, settings = features.provenance, features.settings
    sampling = made.get("sampling") or {}
    architecture = str(made.get("architecture") or "unknown")
    sigmas = sampling.get("sigmas") or [0.0]
    fingerprints = {"denoiser": str(made.get("model", "unknown"))}
    if settings.get("clip"):
        fingerprints["clip"] = settings["clip"]["fingerprint"]
    return audit_document(
        model={
            "name": model_name or architecture,
            "fingerprint": str(made.get("model", "unknown")),
            "site": features.site,
            "architecture": architecture,
            "channels": features.trained.sae.d_in,
            **({"grid": made["grid"]} if "grid" in made else {}),
        },
        settings={
            "images": len(features.seeds),
            "steps": sampling.get("steps") or max(1, len(sigmas) - 1),
            "guidance": sampling.get("guidance", sampling.get("cfg", 1.0)),
            "seed": settings.get("seed", 0),
            "min_support": settings["min_support"],
            "steps_recorded": list(made.get("steps") or ()),
            "normalize": settings["normalize"],
            "clip": settings.get("clip"),
            "sampling": sampling,
        },
        prompts=[prompt],
        sce=None,
        naming=settings.get("naming"),
        provenance={
            **provenance,
            "recording": made,
            "versions": {**made.get("versions", {}), "hapax": __version__, "torch": str(torch.__version__)},
            "fingerprints": fingerprints,
        },
        credits=credits,
    )

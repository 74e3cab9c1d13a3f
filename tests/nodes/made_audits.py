"""Audits for the browser's tests, written into a server's output folder: small, hostile, large, and with features."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hapax.core.feature_audit import write_feature_audit
from hapax.core.feature_file import load_features, save_features
from hapax.core.report import save_audit

CORE = Path(__file__).resolve().parents[1] / "core"
SCRIPT = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hapax_tests_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawing = _module(CORE / "report" / "conftest.py")
features = _module(CORE / "made_features.py")


def _put(folder: Path, audit: dict[str, Any]) -> None:
    save_audit(audit, folder / "audit.json")


def faces(folder: Path) -> dict[str, Any]:
    """Drawn faces: two prompts of twelve features each."""
    audit = drawing.build_audit(folder, 128)
    _put(folder, audit)
    return audit


def tuned(folder: Path) -> None:
    """The same faces after something was done to the model: one feature commoner, one rarer, one gone, one new."""
    audit = drawing.build_audit(folder, 128)
    listed = audit["prompts"][0]["features"]
    by_label = {feature["label"]: feature for feature in listed}
    for label, count in (("line sketch", 120), ("glasses", 4)):
        low, high = drawing.wilson(count, drawing.IMAGES)
        told = {"count": count, "n": drawing.IMAGES, "rate": count / drawing.IMAGES, "low": low, "high": high}
        by_label[label]["prevalence"] = told
    by_label["night"]["label"] = "dusk"
    _put(folder, audit)


def cooks(folder: Path) -> None:
    """What Save Audit writes, with features to load; the prompt that made it is plain."""
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "cooks.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a photo of a cook"}},
        "3": {
            "class_type": "HapaxHarvestActivations",
            "inputs": {
                **{"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "vae": ["1", 2]},
                **{"count": 100, "first_seed": 0, "steps": 9, "cfg": 3.5, "width": 96, "height": 64},
                **{"sampler_name": "euler", "scheduler": "normal"},
            },
        },
    }
    folder.mkdir(parents=True)
    files = {"prompt.json": json.dumps(prompt).encode()}
    write_feature_audit(features.make(), folder, model_name="tiny", provenance={"reproduce": "x"}, files=files)


def two_prompts(one: Path, folder: Path) -> None:
    """An audit of Save Audit's as the command writes it of two prompts; the second one's first feature comes second."""
    shutil.copytree(one, folder)
    own = load_features(folder)
    first, *_ = own.features
    gavel = replace(first, labels=[("gavel", 0.5)], row={**first.row, "score": 0.85})
    save_features(replace(own, prompt="a photo of a judge", features=(gavel,)), folder, prompt=1)
    audit = json.loads((folder / "audit.json").read_text("utf-8"))
    (prompt,) = audit["prompts"]
    row = copy.deepcopy(prompt["features"][0])
    row |= {"id": f"p1-f{row['latent']}", "label": "gavel", "labels": [["gavel", 0.5]], "score": 0.85}
    shown = {"seeds": [], "before": [], "after": []}
    row["amplified"] = {"strength": 1.5, "window": [0.0, 1.0], "mode": "approach", **shown}
    audit["prompts"].append({**copy.deepcopy(prompt), "prompt": "a photo of a judge", "index": 1, "features": [row]})
    _put(folder, audit)


def hostile(folder: Path) -> None:
    """Markup wherever a text is shown."""
    audit = drawing.build_audit(folder, 32)
    audit["model"]["name"] = audit["prompts"][0]["prompt"] = SCRIPT
    for feature in audit["prompts"][0]["features"]:
        feature["label"] = SCRIPT
        feature["labels"] = [[SCRIPT, 0.5], [SCRIPT, 0.4]]
    _put(folder, audit)


def many(folder: Path, count: int) -> None:
    """As many features as asked for, of one prompt; they share the pictures of a few."""
    audit = drawing.build_audit(folder, 64)
    prompt = audit["prompts"][0]
    few = prompt["features"]
    prompt["features"] = [_like(few[place % len(few)], place) for place in range(count)]
    audit["prompts"] = [prompt]
    for part in ("sce", "compass", "invdiff"):
        audit[part]["prompts"] = audit[part]["prompts"][:1]
    _put(folder, audit)


def _like(feature: dict[str, Any], place: int) -> dict[str, Any]:
    made = copy.deepcopy(feature)
    made |= {"id": f"p0-f{place}", "latent": place, "label": f"thing {place}", "amplified": None, "group": []}
    return made | {"score": 1.0 - place / 1e5}

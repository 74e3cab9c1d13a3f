"""Custom nodes for test servers only: a tiny MODEL with what it needs, and a look at what the server holds."""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import torch


def _tiny_models() -> ModuleType:
    name = "hapax_tiny_models"
    if name in sys.modules:
        return sys.modules[name]
    file = Path(__file__).resolve().parents[1] / "inprocess" / "tiny_models.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    # Dataclasses look their module up there.
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class TinyModel:
    """A model of random weights that samples in a blink, two prompts and a VAE."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "VAE")
    FUNCTION = "build"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": (["sd15", "sdxl", "sd3", "flux"],)}}

    def build(self, family):
        tiny = _tiny_models()
        guidance = 3.5 if family == "flux" else None
        prompts = tiny.conditioning(1, guidance), tiny.conditioning(2, guidance)
        vae = tiny.build_vae(latent_channels=tiny.FAMILIES[family].latent_channels)
        return (tiny.build_model(family), *prompts, vae)


class TinyHeld:
    """How many tensors there are in this process, and their bytes."""

    RETURN_TYPES = ()
    FUNCTION = "count"
    CATEGORY = "tests"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    @classmethod
    def IS_CHANGED(cls):
        return float("nan")

    def count(self):
        gc.collect()
        held = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
        size = sum(each.numel() * each.element_size() for each in held)
        return {"ui": {"text": [json.dumps({"tensors": len(held), "bytes": size})]}}


NODE_CLASS_MAPPINGS = {"TinyModel": TinyModel, "TinyHeld": TinyHeld}

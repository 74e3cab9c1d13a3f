"""The demo model with random weights: the shipped files' layout, written by the script that exports the trained one.

What ComfyUI's classes and diffusers compute with the same files can be compared without the training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hapax.core.emoji import build, train_unet, train_vae
from hapax.core.emoji.tokens import CONTEXT, write_tokenizer
from hapax.core.emoji.world import load_world
from transformers import CLIPTokenizer

SCALE = 0.8


def write(folder: Path, scratch: Path) -> Path:
    """Write `folder` as training would, with seeded weights that no step has changed; `scratch` is for the tokenizer.

    The gain of 2 keeps an untrained network from shrinking whatever goes in to nothing.
    """
    write_tokenizer(load_world(), scratch / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(scratch / "tokenizer", model_max_length=CONTEXT)
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts: Any = train_unet.build_unet(), train_unet.build_text_encoder(tokenizer), train_vae.build_vae()
        for part in parts:
            for weight in part.parameters():
                if weight.ndim > 1:
                    weight.mul_(2)
    unet, text, vae = parts
    vae.register_to_config(scaling_factor=SCALE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(build, "MODEL_FOLDER", folder)
        build.export_pipeline(scratch, train_unet.Denoiser(unet, text), vae, tokenizer)
    grey = {"latent_rgb_factors": [[0.1] * 3] * 8, "latent_rgb_factors_bias": [0.0] * 3}
    (folder / "vae" / "preview.json").write_text(json.dumps(grey), encoding="utf-8")
    return folder

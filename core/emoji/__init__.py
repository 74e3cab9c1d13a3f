"""The emoji world: a small real text-to-image diffusion model that ships with Hapax, and the truth about it.

The pictures are Noto Color Emoji (Apache-2.0); the models were trained here, by the scripts beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..embed import ClipEmbedder

MODEL_FOLDER = Path(__file__).with_name("model")
MODEL_INDEX, VAE_FOLDER = MODEL_FOLDER / "model_index.json", MODEL_FOLDER / "vae"
CLIP_FOLDER = Path(__file__).with_name("clip")
CLIP_NAME = "hapax-emoji"
CREDITS = ("The emoji pictures are Noto Color Emoji, Copyright 2013-2023 Google LLC, under the Apache License 2.0.",)
# The sampler at which the gates were measured; gates.json beside the weights has the figures.
DEMO = {"steps": 10, "guidance": 1.0}


def phrases() -> tuple[str, ...]:
    """The words of the emoji world for attributes: candidate names for features, not what is true of them."""
    from .world import load_world

    truth = load_world().truth
    return tuple(dict.fromkeys(v for tables in truth.values() for values in tables.values() for v in values))


def load_clip() -> ClipEmbedder:
    """The tiny CLIP (image and text towers, 64 px, 64 dimensions) that was trained on the emoji world."""
    import open_clip

    from ..embed import ClipEmbedder

    open_clip.add_model_config(CLIP_FOLDER / f"{CLIP_NAME}.json")
    embedder = ClipEmbedder.load(CLIP_NAME, CLIP_FOLDER / f"{CLIP_NAME}.safetensors")
    length = embedder.model.context_length
    embedder.tokenizer = open_clip.tokenizer.SimpleTokenizer(
        bpe_path=str(CLIP_FOLDER / "bpe.txt.gz"), context_length=length
    )
    return embedder

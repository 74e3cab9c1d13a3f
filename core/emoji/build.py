"""Rebuild the emoji world's models from nothing but the font: `python -m hapax.core.emoji.build --runs DIR`.

Each stage checkpoints in DIR and resumes; the last one writes the fp16 files that ship.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from . import CLIP_FOLDER, MODEL_FOLDER, VAE_FOLDER
from .balance import balance
from .lessons import Lessons, demo_scheduler
from .render import SHEET_FILE, draw_sheet
from .tokens import CONTEXT, write_tokenizer
from .train_clip import CLIP_CONFIG, held_out_accuracy, train_clip
from .train_unet import Denoiser, train_unet
from .train_vae import encode_world, preview_factors, reconstruction_gate, train_vae
from .world import load_world


def build_sheet(runs: Path) -> None:
    """Draw the sprite sheet (needs the font)."""
    draw_sheet(load_world()).save(SHEET_FILE, optimize=True)


def build_vae(runs: Path) -> None:
    """Train the VAE and export it with how well it shows the world's pictures again."""
    vae = train_vae(runs / "vae").to(memory_format=torch.contiguous_format, dtype=torch.float16)
    mean, _ = encode_world(vae.float(), load_world())
    vae.register_to_config(scaling_factor=round(1 / mean.std().item(), 6))
    gate = reconstruction_gate(vae)
    vae.half().save_pretrained(VAE_FOLDER)
    drop_names(VAE_FOLDER)
    (VAE_FOLDER / "gate.json").write_text(json.dumps(gate, indent=2) + "\n")
    colors = preview_factors(mean, vae.config.scaling_factor)
    (VAE_FOLDER / "preview.json").write_text(json.dumps(colors, indent=2) + "\n")
    print(json.dumps(gate))


def build_unet(runs: Path) -> None:
    """Train the denoiser with its text encoder, correct its rates, and export the pipeline."""
    vae = AutoencoderKL.from_pretrained(VAE_FOLDER)
    write_tokenizer(load_world(), runs / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(runs / "tokenizer", model_max_length=CONTEXT)
    # Unshifted alone: a shift of a pixel hardly shows, and makes three times as many pictures of the world.
    mean, deviation = (part[:, :1] for part in encode_world(vae, load_world()))
    lessons = Lessons(mean, deviation, tokenizer)
    model = train_unet(runs / "unet", lessons, tokenizer)
    balance(runs / "balance", model, lessons)
    export_pipeline(runs, model, vae, tokenizer)


def export_pipeline(runs: Path, model: Denoiser, vae: Any, tokenizer: Any) -> None:
    """Write the fp16 diffusers folder that ships."""
    nothing: Any = None
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=demo_scheduler(),
        requires_safety_checker=False,
        safety_checker=nothing,
        feature_extractor=nothing,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(MODEL_FOLDER, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):
        # Older tokenizers read these, newer ones tokenizer.json.
        shutil.copy(runs / "tokenizer" / name, MODEL_FOLDER / "tokenizer" / name)
    drop_names(MODEL_FOLDER)


def drop_names(folder: Path) -> None:
    """Take out of all configs where their parts were loaded from, which means nothing elsewhere."""
    for path in folder.rglob("*config.json"):
        content = json.loads(path.read_text())
        kept = {key: value for key, value in content.items() if not key.endswith("name_or_path")}
        path.write_text(json.dumps(kept, indent=2) + "\n")


def build_clip(runs: Path) -> None:
    """Train the tiny CLIP and export it with its held-out accuracy."""
    write_tokenizer(load_world(), runs / "tokenizer")
    merges = runs / "tokenizer" / "bpe.txt.gz"
    model = train_clip(runs / "clip", merges).eval().half().float()
    CLIP_FOLDER.mkdir(exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()},
        CLIP_FOLDER / "hapax-emoji.safetensors",
    )
    (CLIP_FOLDER / "hapax-emoji.json").write_text(json.dumps(CLIP_CONFIG, indent=2) + "\n")
    shutil.copy(merges, CLIP_FOLDER / merges.name)
    accuracy = held_out_accuracy(model, merges)
    (CLIP_FOLDER / "gate.json").write_text(json.dumps({"held_out_accuracy": accuracy}, indent=2) + "\n")
    print(json.dumps(accuracy))


STAGES = {
    "sheet": build_sheet,
    "vae": build_vae,
    "unet": build_unet,
    "clip": build_clip,
}


def main() -> None:
    """Run the stages that were asked for, in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    for stage in arguments.stages:
        STAGES[stage](arguments.runs)


if __name__ == "__main__":
    main()

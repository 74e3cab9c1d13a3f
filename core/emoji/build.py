"""Rebuild the emoji world's models from nothing but the font: `python -m hapax.core.emoji.build --runs DIR`.

Each stage checkpoints in DIR and resumes; the last one writes the fp16 files that ship.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from . import CLIP_FOLDER, MODEL_FOLDER
from .render import SHEET_FILE, draw_sheet
from .tokens import CONTEXT, write_tokenizer
from .train_clip import CLIP_CONFIG, held_out_accuracy, train_clip
from .train_unet import BETA_END, BETA_START, TRAIN_STEPS, Denoiser, train_unet
from .train_vae import sharpen_decoder, train_vae
from .world import load_world


def build_sheet(runs: Path) -> None:
    """Draw the sprite sheet (needs the font) and learn the vocabulary."""
    draw_sheet(load_world()).save(SHEET_FILE, optimize=True)
    write_tokenizer(load_world(), runs / "tokenizer")


def build_vae(runs: Path) -> None:
    """Train the VAE."""
    train_vae(runs / "vae").save_pretrained(runs / "vae" / "model")


def build_decoder(runs: Path) -> None:
    """Train the VAE's decoder further, its encoder fixed, and put it into the pipeline that ships."""
    vae = sharpen_decoder(runs / "decoder", AutoencoderKL.from_pretrained(runs / "vae" / "model"))
    scale = AutoencoderKL.load_config(MODEL_FOLDER / "vae")["scaling_factor"]
    vae.register_to_config(scaling_factor=scale)
    vae.half().save_pretrained(MODEL_FOLDER / "vae")


def build_unet(runs: Path) -> None:
    """Train the denoiser with its text encoder and export the pipeline."""
    vae = AutoencoderKL.from_pretrained(runs / "vae" / "model")
    tokenizer = CLIPTokenizer.from_pretrained(runs / "tokenizer", model_max_length=CONTEXT)
    model, scale = train_unet(runs / "unet", vae, tokenizer)
    export_pipeline(model, vae, tokenizer, scale)


def export_pipeline(model: Denoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer, scale: float) -> None:
    """Write the fp16 diffusers folder that ships."""
    vae.register_to_config(scaling_factor=round(scale, 6))
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type="epsilon",
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    shutil.rmtree(MODEL_FOLDER, ignore_errors=True)
    pipeline.save_pretrained(MODEL_FOLDER, safe_serialization=True)


def build_clip(runs: Path) -> None:
    """Train the tiny CLIP and export it with its held-out accuracy."""
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
    "decoder": build_decoder,
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

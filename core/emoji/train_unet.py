"""Train the denoiser and its text encoder on latents of the emoji world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .tokens import CONTEXT
from .train_vae import encode_world
from .trainer import Trainer
from .world import Kind, World, load_world

STEPS, BATCH, LR = 5000, 64, 1e-3
NO_CAPTION, LISTED = 0.1, 0.3
# Square-root-linear betas that end in almost pure noise: with the usual .012 the last step of a latent this
# small still shows which picture it was, and sampled rates would drift from the learned ones.
BETA_START, BETA_END, TRAIN_STEPS = 0.00085, 0.025, 1000
WIDTH = 128


def build_unet() -> Any:
    """SD1.x's shape in small: cross-attention above, plain blocks at the bottom, attention in the middle."""
    config = {
        "sample_size": 8,
        "in_channels": 8,
        "out_channels": 8,
        "layers_per_block": 1,
        "block_out_channels": [96, 192],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 32,
    }
    return UNet2DConditionModel.from_config(config)


def build_text_encoder(tokenizer: Any) -> Any:
    """A two-layer CLIP text model on the small vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=WIDTH,
        )
    )


def draw_pair(world: World, rng: np.random.Generator) -> tuple[Kind, str]:
    """A training pair: half of the captions are bare, half name some of their attributes, drawn evenly."""
    concept = world.concepts[rng.integers(len(world.concepts))]
    attributes = list(world.truth[concept])
    named: set[str] = set()
    if rng.random() < 0.5:
        while not named:
            named = {a for a in attributes if rng.random() < 0.6}
    template = 0 if rng.random() < 0.5 else int(rng.integers(len(world.templates)))
    kind = world.draw(concept, named, rng)
    if rng.random() < NO_CAPTION:
        return kind, ""
    return kind, world.caption(kind, named, template, listed=rng.random() < LISTED)


class Denoiser(nn.Module):
    """UNet and text encoder as one module, so that they train and checkpoint together."""

    def __init__(self, unet: Any, text: Any) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predicted noise [B, 8, 8, 8]."""
        return self.unet(x, t, self.text(tokens).last_hidden_state, return_dict=False)[0]


def alphas_bar() -> Tensor:
    """The products of (1 - beta) over the training schedule: [1000]."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def train_unet(folder: Path, vae: Any, tokenizer: Any, steps: int = STEPS) -> tuple[Denoiser, float]:
    """Train (or resume) in `folder`; returns the model with its EMA weights and the latents' scale."""
    torch.manual_seed(0)
    world, bar = load_world(), alphas_bar()
    mean, deviation = encode_world(vae, world)
    scale = 1 / mean.std().item()
    row = {kind: i for i, kind in enumerate(world.kinds())}
    model: Any = Denoiser(build_unet(), build_text_encoder(tokenizer))
    model.to(memory_format=torch.channels_last)
    # PyTorch's fused attention is slow backwards on CPUs: it took 60 % of a step.
    model.unet.set_attn_processor(AttnProcessor())
    model.text.set_attn_implementation("eager")
    compiled = torch.compile(model)
    ids: dict[str, Tensor] = {}

    def tokens(caption: str) -> Tensor:
        if caption not in ids:
            ids[caption] = torch.tensor(tokenizer(caption, padding="max_length", max_length=CONTEXT).input_ids)
        return ids[caption]

    def loss(step: int) -> Tensor:
        rng, generator = np.random.default_rng([2, step]), torch.Generator().manual_seed(step)
        pairs = [draw_pair(world, rng) for _ in range(BATCH)]
        kind = torch.tensor([row[k] for k, _ in pairs])
        shift = torch.from_numpy(rng.integers(mean.shape[1], size=BATCH))
        text = torch.stack([tokens(caption) for _, caption in pairs])
        jitter = torch.randn(BATCH, 8, 8, 8, generator=generator)
        x0 = (mean[kind, shift] + deviation[kind, shift] * jitter) * scale
        noise = torch.randn(x0.shape, generator=generator)
        # Stratified over the schedule: the same expectation with less noise between batches.
        t = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) * TRAIN_STEPS / BATCH
        t = t.long()[torch.randperm(BATCH, generator=generator)]
        a = bar[t].view(-1, 1, 1, 1)
        x = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = compiled(x, t, text)
        return (predicted.float() - noise).pow(2).mean()

    Trainer(model, loss, folder, steps=steps, lr=LR, ema=0.999).run()
    return model, scale

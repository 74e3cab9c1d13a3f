"""Train the denoiser and its text encoder on latents of the emoji world."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .ideal import free_prior, ideal_clean, named_sets, prior, velocity
from .tokens import CONTEXT
from .train_vae import encode_world
from .trainer import Trainer
from .world import Kind, World, load_world

STEPS, BATCH, LR = 8000, 64, 1e-3
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


class Drawn(NamedTuple):
    """A training pair: the kind that is shown, its caption, and what the caption names (None: nothing at all)."""

    kind: Kind
    caption: str
    named: frozenset[str] | None


def draw_pair(world: World, rng: np.random.Generator) -> Drawn:
    """Half of the captions are bare, half name some of their attributes, drawn evenly; a tenth is left empty."""
    concept = world.concepts[rng.integers(len(world.concepts))]
    sets = named_sets(list(world.truth[concept]))
    named = list(sets)[rng.choice(len(sets), p=list(sets.values()))]
    template = 0 if rng.random() < 0.5 else int(rng.integers(len(world.templates)))
    kind = world.draw(concept, set(named), rng)
    if rng.random() < NO_CAPTION:
        return Drawn(kind, "", None)
    return Drawn(kind, world.caption(kind, named, template, listed=rng.random() < LISTED), named)


class Denoiser(nn.Module):
    """UNet and text encoder as one module, so that they train and checkpoint together."""

    def __init__(self, unet: Any, text: Any) -> None:
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predicted v [B, 8, 8, 8]."""
        return self.unet(x, t, self.text(tokens).last_hidden_state, return_dict=False)[0]


def alphas_bar() -> Tensor:
    """The products of (1 - beta) over the training schedule: [1000]."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


class Lessons:
    """Training batches: noisy latents with their captions, and the ideal v to predict."""

    def __init__(self, vae: Any, tokenizer: Any) -> None:
        self.world, self.tokenizer, self.bar = load_world(), tokenizer, alphas_bar()
        mean, deviation = encode_world(vae, self.world)
        self.scale = 1 / mean.std().item()
        self.means = mean * self.scale
        self.spread = deviation.square().mean().sqrt().item() * self.scale
        self.rows = {kind: i for i, kind in enumerate(self.world.kinds())}
        self._ids: dict[str, Tensor] = {}
        self._priors: dict[tuple, Tensor] = {}

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_t [B, 8, 8, 8], t [B], token ids [B, 24] and the ideal v [B, 8, 8, 8], all drawn from the step."""
        rng, generator = np.random.default_rng([2, step]), torch.Generator().manual_seed(step)
        pairs = [draw_pair(self.world, rng) for _ in range(BATCH)]
        shift = torch.from_numpy(rng.integers(self.means.shape[1], size=BATCH))
        centre = self.means[torch.tensor([self.rows[pair.kind] for pair in pairs]), shift]
        x0 = centre + self.spread * torch.randn(centre.shape, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        # Stratified over the schedule: the same expectation with less noise between batches.
        t = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) * TRAIN_STEPS / BATCH
        t = t.long()[torch.randperm(BATCH, generator=generator)]
        a = self.bar[t].view(-1, 1, 1, 1)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        return x, t, torch.stack([self._tokens(pair.caption) for pair in pairs]), self._target(x, t, pairs)

    def _tokens(self, caption: str) -> Tensor:
        if caption not in self._ids:
            ids = self.tokenizer(caption, padding="max_length", max_length=CONTEXT).input_ids
            self._ids[caption] = torch.tensor(ids)
        return self._ids[caption]

    def _target(self, x: Tensor, t: Tensor, pairs: list[Drawn]) -> Tensor:
        target, groups = torch.empty_like(x), {}
        for i, pair in enumerate(pairs):
            groups.setdefault(pair.kind.concept if pair.named is not None else None, []).append(i)
        for concept, members in groups.items():
            rows, abar = x[members].flatten(1), self.bar[t[members]]
            centres = self._centres(concept).flatten(0, 1).flatten(1)
            log_prior = torch.stack([self._log_prior(concept, pairs[i]) for i in members])
            clean = ideal_clean(rows, abar, centres, self.spread, log_prior)
            target[members] = velocity(rows, abar, clean).view(-1, *x.shape[1:])
        return target

    def _centres(self, concept: str | None) -> Tensor:
        """The latents of one concept's kinds, or of all, at all shifts: [K, S, 8, 8, 8]."""
        if concept is None:
            return self.means
        first = self.rows[self.world.kinds(concept)[0]]
        return self.means[first : first + len(self.world.kinds(concept))]

    def _log_prior(self, concept: str | None, pair: Drawn) -> Tensor:
        """log P(kind, shift | caption), up to a constant: [K * S]."""
        named = {} if pair.named is None else {name: pair.kind[name] for name in pair.named}
        key = (concept, *sorted(named.items()))
        if key not in self._priors:
            if concept is None:
                p = torch.cat([free_prior(self.world, name) for name in self.world.concepts])
            else:
                p = prior(self.world, concept, named)
            self._priors[key] = p.log().repeat_interleave(self.means.shape[1])
        return self._priors[key]


def train_unet(folder: Path, vae: Any, tokenizer: Any) -> tuple[Denoiser, float]:
    """Train (or resume) in `folder`; returns the model with its EMA weights and the latents' scale."""
    torch.manual_seed(0)
    lessons = Lessons(vae, tokenizer)
    model: Any = Denoiser(build_unet(), build_text_encoder(tokenizer))
    model.to(memory_format=torch.channels_last)
    # PyTorch's fused attention is slow backwards on CPUs: it took 60 % of a step.
    model.unet.set_attn_processor(AttnProcessor())
    model.text.set_attn_implementation("eager")
    compiled = torch.compile(model)

    def loss(step: int) -> Tensor:
        x, t, text, target = lessons.draw(step)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = compiled(x.contiguous(memory_format=torch.channels_last), t, text)
        return (predicted.float() - target).pow(2).mean()

    Trainer(model, loss, folder, steps=STEPS, lr=LR, ema=0.999).run()
    return model, lessons.scale

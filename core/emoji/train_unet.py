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

from .balance import Rates, aim
from .ideal import free_prior, ideal_clean, named_sets, prior, velocity
from .tokens import CONTEXT
from .train_vae import encode_world
from .trainer import Trainer
from .world import Kind, World, load_world

BATCH = 64
NO_CAPTION, LISTED = 0.1, 0.3
# Square-root-linear betas that end in almost pure noise: with the usual .012 the last step of a latent this
# small still shows which picture it was, and sampled rates would drift from the learned ones.
BETA_START, BETA_END, TRAIN_STEPS = 0.00085, 0.025, 1000
WIDTH = 128


def build_unet() -> Any:
    """SD1.x's shape in small, where what a picture shows is decided in the middle block.

    With cross-attention in the upper blocks and open skips, the trained model hardly used its bottleneck: pictures
    kept their looks when all of it was exchanged for another picture's, so nothing could be shown that acts there.
    """
    config = {
        "sample_size": 8,
        "in_channels": 8,
        "out_channels": 8,
        "layers_per_block": 2,
        "block_out_channels": [64, 192],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 32,
    }
    unet: Any = UNet2DConditionModel.from_config(config)
    close_skips(unet)
    return unet


def close_skips(unet: Any) -> None:
    """Keep at zero what the decoder reads from the encoder, but for the first convolution's output.

    What the last convolutions can't see within their reach has to pass the bottleneck then.
    """
    for block in unet.up_blocks:
        for resnet in block.resnets:
            if resnet is unet.up_blocks[-1].resnets[-1]:
                continue
            for layer in (resnet.conv1, resnet.conv_shortcut):
                own = torch.ones_like(layer.weight)
                own[:, _skipped(unet, block, resnet) :] = 0
                with torch.no_grad():
                    layer.weight.mul_(own)
                layer.weight.register_hook(lambda gradient, own=own: gradient * own)


def _skipped(unet: Any, block: Any, resnet: Any) -> int:
    """Channels of a decoder's resnet that come from below; the rest come from the encoder."""
    if resnet is not block.resnets[0]:
        return resnet.out_channels
    return unet.config.block_out_channels[-1]


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


class Phase(NamedTuple):
    """A run of the trainer; half of its training times lie in `focus`, a share of the schedule."""

    name: str
    steps: int
    lr: float
    focus: tuple[float, float]


# First what decides the style and the person, at noise of 1 to 15 times the picture; then what decides a skin tone
# in a dark or grey picture, and how sharp it is, at less noise.
PHASES = (Phase("learn", 9000, 1e-3, (0.15, 0.75)), Phase("polish", 3500, 5e-4, (0.02, 0.6)))
BALANCE = Phase("balance", 1200, 4e-4, (0.1, 0.75))


class Drawn(NamedTuple):
    """A training pair: the kind that is shown, its caption, and what the caption names (None: nothing at all)."""

    kind: Kind
    caption: str
    named: frozenset[str] | None


def draw_pair(world: World, rng: np.random.Generator) -> Drawn:
    """Half of the captions are bare, half name some of their attributes, drawn evenly; a tenth is left empty.

    The target is known for any x_t, whichever picture it came from. So half of the pictures are drawn evenly
    where the caption leaves them open: the surroundings of rare ones would hardly be visited otherwise.
    """
    attributes = np.array([len(world.truth[concept]) for concept in world.concepts])
    concept = world.concepts[rng.choice(len(world.concepts), p=attributes / attributes.sum())]
    sets = named_sets(list(world.truth[concept]))
    named = list(sets)[rng.choice(len(sets), p=list(sets.values()))]
    template = 0 if rng.random() < 0.5 else int(rng.integers(len(world.templates)))
    kind = world.draw(concept, set(named) if rng.random() < 0.5 else set(world.truth[concept]), rng)
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


def draw_times(count: int, focus: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Training times [count]: half over the whole schedule, half in `focus`.

    Stratified: the same expectation as independent draws with less noise between batches.
    """
    half = count // 2
    u = torch.cat([torch.arange(half) / half, torch.arange(count - half) / (count - half)])
    width = torch.tensor([1 / half] * half + [1 / (count - half)] * (count - half))
    u = u + width * torch.rand(count, generator=generator)
    first, last = focus
    u[half:] = first + (last - first) * u[half:]
    return (u * TRAIN_STEPS).long()[torch.randperm(count, generator=generator)]


class Lessons:
    """Training batches: noisy latents with their captions, and the ideal v to predict."""

    def __init__(self, vae: Any, tokenizer: Any) -> None:
        self.world, self.tokenizer, self.bar = load_world(), tokenizer, alphas_bar()
        self._aim = self.world
        mean, deviation = encode_world(vae, self.world)
        self.scale = 1 / mean.std().item()
        self.means = mean * self.scale
        self.spread = deviation.square().mean().sqrt().item() * self.scale
        self.rows = {kind: i for i, kind in enumerate(self.world.kinds())}
        self._ids: dict[str, Tensor] = {}
        self._priors: dict[tuple, Tensor] = {}

    def draw(self, step: int, focus: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_t [B, 8, 8, 8], t [B], token ids [B, 24] and the ideal v [B, 8, 8, 8], all drawn from the step."""
        rng, generator = np.random.default_rng([2, step]), torch.Generator().manual_seed(step)
        pairs = [draw_pair(self.world, rng) for _ in range(BATCH)]
        shift = torch.from_numpy(rng.integers(self.means.shape[1], size=BATCH))
        centre = self.means[torch.tensor([self.rows[pair.kind] for pair in pairs]), shift]
        x0 = centre + self.spread * torch.randn(centre.shape, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        t = draw_times(BATCH, focus, generator)
        a = self.bar[t].view(-1, 1, 1, 1)
        x = a.sqrt() * x0 + (1 - a).sqrt() * noise
        return x, t, torch.stack([self._tokens(pair.caption) for pair in pairs]), self._target(x, t, pairs)

    def aim_at(self, world: World) -> None:
        """Let bare captions mean the shares of another world; what they name stays."""
        self._aim, self._priors = world, {}

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
                p = prior(self._aim, concept, named)
            self._priors[key] = p.log().repeat_interleave(self.means.shape[1])
        return self._priors[key]


def train_unet(folder: Path, vae: Any, tokenizer: Any, rates: Rates | None = None) -> tuple[Denoiser, float]:
    """Train (or resume) in `folder`; returns the model with its EMA weights and the latents' scale.

    With the `rates` that a model trained without them shows, a last phase corrects them.
    """
    torch.manual_seed(0)
    lessons = Lessons(vae, tokenizer)
    model: Any = Denoiser(build_unet(), build_text_encoder(tokenizer))
    model.to(memory_format=torch.channels_last)
    # PyTorch's fused attention is slow backwards on CPUs: it took 60 % of a step.
    model.unet.set_attn_processor(AttnProcessor())
    model.text.set_attn_implementation("eager")
    compiled = torch.compile(model)

    def run(phase: Phase) -> None:
        def loss(step: int) -> Tensor:
            x, t, text, target = lessons.draw(step, phase.focus)
            with torch.autocast("cpu", torch.bfloat16):
                predicted = compiled(x.contiguous(memory_format=torch.channels_last), t, text)
            return (predicted.float() - target).pow(2).mean()

        Trainer(model, loss, folder / phase.name, steps=phase.steps, lr=phase.lr, ema=0.999).run()

    for phase in PHASES:
        run(phase)
    if rates is not None:
        lessons.aim_at(aim(lessons.world, rates))
        run(BALANCE)
    return model, lessons.scale

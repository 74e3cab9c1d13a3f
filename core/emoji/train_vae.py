"""Train the VAE of the emoji world (64x64 px to 8x8x8 latents)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .judge import judge
from .render import render_all, shifts
from .trainer import Trainer
from .world import Kind, World, load_world

STEPS, BATCH, LR = 1800, 32, 2e-3
APART_STEPS, APART_LR = 1200, 1e-3
# An ELBO with pixel noise .05: weight = 2 sigma^2 / (3 * 64 * 64) for a KL summed over the latent.
KL_WEIGHT = 4e-7
# What an attribute changes is small next to a whole picture; a VAE that only minds pixels washes skin tones out.
RIVAL_WEIGHT = 0.02
# By how many deviations of the latents rivals are to differ, in the root mean square over a latent. A denoiser
# decides late, and learns last, what hardly differs there: skin tones did by .3 where styles did by 1.1.
APART, APART_WEIGHT = 0.9, 0.05


def build_vae() -> Any:
    """The architecture: GroupNorm 32 and an attention in the middle, as ComfyUI's AutoencoderKL has them."""
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "sample_size": 64,
        "latent_channels": 8,
        "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [32, 32, 64, 96],
        "norm_num_groups": 32,
    }
    return AutoencoderKL.from_config(config)


def one_apart(kind: Kind, other: Kind) -> str | None:
    """The attribute in which two kinds differ, if it is the only one and they are of one concept.

    >>> kinds = load_world().kinds("cat")
    >>> one_apart(kinds[0], kinds[1]), one_apart(kinds[0], kinds[-1])
    ('style', None)
    """
    if kind.concept != other.concept:
        return None
    differ = [name for (name, value), (_, its) in zip(kind.attributes, other.attributes, strict=True) if value != its]
    return differ[0] if len(differ) == 1 else None


class Pictures:
    """The world's pictures for training, each with a rival: the same but for one attribute."""

    def __init__(self, world: World) -> None:
        self.pixels = torch.from_numpy(render_all(world)).permute(0, 3, 1, 2)
        self.offsets = shifts(world)
        kinds = world.kinds()
        self.rivals = [[j for j, other in enumerate(kinds) if one_apart(kind, other)] for kind in kinds]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor]:
        """Kinds and shifts [size], their pictures and a rival of each, float [size, 3, H, W] in [-1, 1]."""
        kind, shift = rng.integers(len(self.pixels), size=size), rng.integers(len(self.offsets), size=size)
        rival = np.array([rng.choice(self.rivals[k]) for k in kind])
        return kind, shift, self._shifted(kind, shift), self._shifted(rival, shift)

    def _shifted(self, kind: np.ndarray, shift: np.ndarray) -> Tensor:
        batch = [self.pixels[k].roll(self.offsets[s], (1, 2)) for k, s in zip(kind, shift, strict=True)]
        return (torch.stack(batch).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def picture_error(y: Tensor, x: Tensor, rival: Tensor, absolute: float) -> Tensor:
    """Squared and absolute error of pictures y for x, all [B, 3, H, W], and how far they go towards their rivals.

    The last is 0 for a picture that is right and 1/2 for one midway between the two, whatever their distance.
    """
    error, apart = (y - x) / 2, ((rival - x) / 2).flatten(1)
    towards = (error.flatten(1) * apart).sum(1) / apart.square().sum(1)
    return error.square().mean() + absolute * error.abs().mean() + RIVAL_WEIGHT * towards.square().mean()


def nearness(mean: Tensor, rival: Tensor) -> Tensor:
    """How much latents [B, 8, 8, 8] and those of their rivals fall short of being `APART`."""
    apart = (mean - rival).flatten(1).square().mean(1).sqrt() / mean.std()
    return (APART - apart).relu().square().mean()


def train_vae(folder: Path) -> Any:
    """Train (or resume) in `folder`; returns the VAE with its EMA weights.

    First to show the pictures again, then also to set apart in its latents what differs in one attribute.
    """
    torch.manual_seed(0)
    pictures = Pictures(load_world())
    vae = build_vae().to(memory_format=torch.channels_last)

    def forward(x: Tensor, rival: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        latent, other = vae.encode(torch.cat([x, rival])).latent_dist.parameters.chunk(2)
        mean, logvar = latent.chunk(2, 1)
        return vae.decode(mean + (0.5 * logvar).exp() * noise).sample, mean, logvar, other.chunk(2, 1)[0]

    compiled = torch.compile(forward)

    def loss(step: int, apart: float) -> Tensor:
        _, _, x, rival = pictures.draw(np.random.default_rng([1, step]), BATCH)
        noise = torch.randn(BATCH, 8, 8, 8, generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            parts = compiled(x, rival, noise)
        y, mean, logvar, other = (part.float() for part in parts)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
        error = picture_error(y, x, rival, 0.02) + min(1.0, step / 500) * KL_WEIGHT * kl
        return error + apart * nearness(mean, other)

    Trainer(vae, lambda step: loss(step, 0.0), folder, steps=STEPS, lr=LR).run()
    apart = folder / "apart"
    Trainer(vae, lambda step: loss(10**6 + step, APART_WEIGHT), apart, steps=APART_STEPS, lr=APART_LR).run()
    return vae


@torch.no_grad()
def encode_world(vae: Any, world: World, offsets: list[tuple[int, int]] | None = None) -> tuple[Tensor, Tensor]:
    """Means and deviations of all kinds at some shifts, by default at all: two [kinds, shifts, 8, 8, 8]."""
    offsets = offsets or shifts(world)
    pictures = torch.from_numpy(render_all(world))
    means, deviations = [], []
    for offset in offsets:
        x = pictures.roll(offset, (1, 2)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for part in x.split(96):
            latent = vae.encode(part).latent_dist
            means.append(latent.mean)
            deviations.append(latent.std)
    shape = (len(offsets), len(pictures), 8, 8, 8)
    mean, deviation = (torch.cat(v).view(shape).transpose(0, 1).contiguous() for v in (means, deviations))
    return mean, deviation


def preview_factors(mean: Tensor, scaling_factor: float) -> dict[str, list[Any]]:
    """The least-squares map from a latent's cell to its mean color, in [-1, 1], so that a preview needs no decoder.

    `mean` [kinds, shifts, 8, 8, 8] as `encode_world` gives it. The names are those of ComfyUI's latent formats.
    """
    world = load_world()
    pictures = torch.from_numpy(render_all(world)).permute(0, 3, 1, 2).float() / 127.5 - 1
    moved = torch.stack([pictures.roll(offset, (2, 3)) for offset in shifts(world)], 1)
    colors = avg_pool2d(moved.flatten(0, 1), 8).permute(0, 2, 3, 1).flatten(0, 2)
    cells = (mean * scaling_factor).flatten(0, 1).permute(0, 2, 3, 1).flatten(0, 2)
    found = torch.linalg.lstsq(torch.cat([cells, torch.ones(len(cells), 1)], 1), colors).solution
    rows = [[round(value, 4) for value in row] for row in found.tolist()]
    return {"latent_rgb_factors": rows[:-1], "latent_rgb_factors_bias": rows[-1]}


@torch.no_grad()
def reconstruction_gate(vae: Any, offsets: list[tuple[int, int]] | None = None) -> dict[str, float]:
    """How often all attributes are named right on pictures that went through the VAE, and their distance.

    All kinds at some shifts, by default at all, drawn from the posterior; the judge counts.
    """
    generator, world = torch.Generator().manual_seed(0), load_world()
    mean, deviation = encode_world(vae, world, offsets)
    z = (mean + deviation * torch.randn(mean.shape, generator=generator)).transpose(0, 1).flatten(0, 1)
    decoded = torch.cat([vae.decode(part).sample for part in z.split(96)])
    pictures = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    verdict = judge(pictures)
    right = [a == b for a, b in zip(verdict.kinds, world.kinds() * mean.shape[1], strict=True)]
    return {"named_right": float(np.mean(right)), "rmse": round(verdict.rmse.mean().item(), 4)}

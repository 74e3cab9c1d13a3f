"""What `invdiff.py` compares with: the official InvDiff recipe as its code has it, and low-rank adapters."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hapax.core.backends.denoiser import Conditioned, frozen
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.invdiff import GuidanceConfig, PictureSet
from hapax.core.invdiff.lessons import Lessons
from hapax.core.invdiff.objective import group_objective
from hapax.core.taps import Step
from torch import Tensor, nn


def optimise(
    parameters: list[nn.Parameter], loss: Callable[[int], Tensor], *, steps: int, lr: float, warmup: int, decay: float
) -> float:
    """AdamW with warm-up and a cosine to zero, gradients clipped to 1; return the CPU seconds."""
    optimiser, start = torch.optim.AdamW(parameters, lr=lr, weight_decay=decay), time.process_time()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad(set_to_none=True)
        loss(step).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
    return time.process_time() - start


class OfficialDelta:
    """The official model: a full copy of the denoiser, its last layer zero, mixed half and half with the first.

    As a tap at `eps` it returns r * delta + (1 - r) * base, at r = .5, at which it is trained.
    """

    RATIO = 0.5

    def __init__(self, denoiser: Any) -> None:
        self.delta = copy.deepcopy(denoiser).requires_grad_(True)
        nn.init.zeros_(self.delta.conv_out.weight)
        nn.init.zeros_(self.delta.conv_out.bias)

    def __call__(self, h: Tensor, step: Step) -> Tensor:
        delta = self.delta(step.x, step.timestep.to(h.device), step.context, return_dict=False)[0]
        return (self.RATIO * delta + (1 - self.RATIO) * h).to(h.dtype)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.delta.parameters())


@torch.no_grad()
def official_losses(conditioned: Conditioned, pictures: PictureSet, seed: int, batch: int = 100) -> Tensor:
    """One random time and noise a picture, and the prediction compared with the clean latents [N, 1] (sic)."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for rows in torch.arange(len(pictures)).split(batch):
        clean = pictures.latents[rows]
        timestep = torch.randint(1000, (len(rows),), generator=generator).float()
        a, b = (scale.view(-1, 1, 1, 1) for scale in conditioned.schedule.scales(timestep))
        x = a * clean + b * torch.randn(clean.shape, generator=generator)
        parts.append((conditioned.predict(x, timestep, pictures.prompt[rows]) - clean).square().mean((1, 2, 3)))
    return torch.cat(parts)[:, None]


def official_groups(losses: Tensor, groups: int = 8, steps: int = 500) -> Tensor:
    """Maximise the standard deviation of the groups' mean losses (w_nz = 0, the recipe t_g8_w0): [N, G]."""
    weights = torch.full((len(losses), groups), 1 / groups)
    # Exactly even weights have no gradient.
    weights = (weights + 1e-3 * torch.rand(weights.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=0.01)
    for _ in range(steps):
        means = (losses * weights).sum(0) / weights.sum(0).clamp(min=1e-9)
        optimiser.zero_grad()
        (-means.std()).backward()
        optimiser.step()
        with torch.no_grad():
            weights.clamp_(min=0)
            weights /= weights.sum(1, keepdim=True).clamp(min=1e-9)
    return weights.detach()


def train_official(
    backend: DiffusersBackend, pictures: PictureSet, weights: Tensor, *, steps: int, batch: int = 64, bf16: bool = True
) -> tuple[OfficialDelta, float]:
    """Train the delta with loss mean + 1 * variance over groups, times over the whole schedule, lr 1e-4."""
    conditioned, official = Conditioned(backend, pictures.prompts), OfficialDelta(backend.denoiser)

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        clean, timestep = pictures.latents[rows], torch.randint(1000, (batch,), generator=generator).float()
        a, b = (scale.view(-1, 1, 1, 1) for scale in conditioned.schedule.scales(timestep))
        x = a * clean + b * torch.randn(clean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            predicted = conditioned.predict(x, timestep, pictures.prompt[rows], {"eps": official})
        error = (predicted - conditioned.schedule.target(x, clean, timestep)).square().mean((1, 2, 3))
        return group_objective(error, weights[rows], variance_weight=1.0)

    with frozen(backend.denoiser), frozen(official.delta):
        official.delta.requires_grad_(True)
        trained = list(official.delta.parameters())
        seconds = optimise(trained, loss, steps=steps, lr=1e-4, warmup=max(1, steps // 10), decay=1e-2)
    official.delta.requires_grad_(False)
    return official, seconds


class LowRank(nn.Module):
    """A linear layer with an update of low rank that can be switched off."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base, self.on = base, True
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return out + x @ self.down.T @ self.up.T if self.on else out


@contextmanager
def low_rank(denoiser: nn.Module, rank: int = 8) -> Iterator[list[nn.Parameter]]:
    """Put adapters on all attention projections; yield their weights; take them off again."""
    sites = []
    for path, child in denoiser.named_modules():
        parent, _, name = path.rpartition(".")
        if name in ("to_q", "to_k", "to_v") or (parent.endswith(".to_out") and isinstance(child, nn.Linear)):
            sites.append((denoiser.get_submodule(parent), name, child))
    adapters = [(parent, name, child, LowRank(child, rank)) for parent, name, child in sites]
    for parent, name, _, adapter in adapters:
        parent._modules[name] = adapter
    try:
        yield [p for *_, adapter in adapters for p in (adapter.down, adapter.up)]
    finally:
        for parent, name, child, _ in adapters:
            parent._modules[name] = child


def train_low_rank(
    conditioned: Conditioned,
    pictures: PictureSet,
    weights: Tensor,
    probabilities: Tensor,
    config: GuidanceConfig,
    parameters: list[nn.Parameter],
) -> float:
    """Train adapters on the lessons that a guidance module gets; return the CPU seconds."""
    lessons = Lessons(pictures, weights, probabilities, conditioned, config)

    def loss(step: int) -> Tensor:
        lesson = lessons.draw(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            predicted = conditioned.predict(lesson.x, lesson.timestep, lesson.prompt)
        error = (predicted - lesson.target).square().flatten(1).mean(1) * lesson.weight
        return group_objective(error, lesson.memberships, variance_weight=0.0, shares=lesson.memberships.sum(0))

    with frozen(conditioned.denoiser):
        for p in parameters:
            p.requires_grad_(True)
        return optimise(parameters, loss, steps=config.steps, lr=config.lr, warmup=config.warmup, decay=0.0)

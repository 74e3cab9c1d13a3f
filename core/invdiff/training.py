"""Training a guidance module: the base frozen, groups stratified at shared times and noises, exact resumption."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autocast, nn

from ..backends.denoiser import Denoising, denoising
from ..backends.diffusers import DiffusersBackend
from ..distributed import average_gradients, rank, same_everywhere, summed, world_size
from ..errors import HapaxError
from ..sites import select_site
from ..steering import Scope
from .checkpoints import Checkpoint
from .data import PictureSet
from .files import module_fingerprint
from .groups import balanced_weights, checked_weights
from .lessons import Lessons
from .module import GuidanceModule, GuidanceShape
from .objective import Risk, group_losses, group_objective

Progress = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class GuidanceConfig:
    """How a guidance module is trained.

    Attributes:
        site: where it acts: `mid`, `eps`, a DiT's block.
        hidden: its width; None is the widest up to 128 within 5 % of the denoiser's parameters.
        start, end: window of progress in which it is trained and acts.
        steps: optimiser steps.
        batch_size: samples a step, over all processes and accumulated parts.
        seats: pictures of a batch that share prompt, time and noise. Few leave room for more times in a batch,
            which is what training needs (in a test with known answer 2 reached .48 of a due .50 where 8 reached
            .33); with a variance weight give as many as there are groups, so that these differ by nothing else.
        accumulation: parts in which a step's batch is computed, one after the other.
        lr, warmup, ema, clip: AdamW's peak rate (cosine to zero), steps of linear warm-up, decay of the averaged
            weights, largest norm of the gradient.
        variance_weight, risk: see `group_objective`; the weight grows linearly over the first half of the steps.
        references: pictures of the prompt over which the target is averaged, see `posterior_clean`; 1 is the
            usual target, the picture's own noise.
        bf16: autocast to bfloat16. Masters and optimiser stay float32.
        checkpointing: compute activations again in the backward pass, which saves memory.
        save_every: steps between checkpoints.
        seed: of weights, pictures, times and noises.
    """

    site: str = "mid"
    hidden: int | None = None
    start: float = 0.0
    end: float = 1.0
    steps: int = 1500
    batch_size: int = 48
    seats: int = 2
    accumulation: int = 1
    lr: float = 2e-3
    warmup: int = 50
    ema: float = 0.99
    clip: float = 1.0
    variance_weight: float = 0.0
    risk: Risk = "variance"
    references: int = 1024
    bf16: bool = False
    checkpointing: bool = False
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise HapaxError(f"The window is {self.start} to {self.end}; give 0 <= start < end <= 1.")
        positive = ("steps", "batch_size", "seats", "accumulation", "references", "save_every", "lr", "clip")
        for name in positive:
            if not getattr(self, name) > 0:
                raise HapaxError(f"{name} is {getattr(self, name)}; give a positive number.")


# ComfyUI calls its nodes in inference mode, in which nothing can be trained.
@torch.inference_mode(False)
@torch.enable_grad()
def train_guidance(
    model: DiffusersBackend | Denoising,
    pictures: PictureSet,
    weights: Tensor,
    config: GuidanceConfig | None = None,
    *,
    probabilities: Tensor | None = None,
    start: GuidanceModule | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    meta: Mapping[str, Any] | None = None,
) -> GuidanceModule:
    """Learn a guidance module that makes the groups of a set of pictures equally likely (InvDiff).

    A step draws some times and noises, and for each of them pictures of one prompt spread over its groups: the
    groups' losses then differ by the groups alone. The loss is the squared error of the prediction, in units of
    v, against its target; `group_objective` joins the groups'. Nothing but the module's weights changes.

    Under `torch.distributed` each process computes its share of the batch and gradients are averaged.

    Args:
        model: a backend, or its denoiser ready to be called; it is frozen.
        pictures: what to train on.
        weights: `[N, G]` each picture's share in each group, as `infer_groups` returns it.
        probabilities: `[N]` what the module is to make of each prompt's pictures; `balanced_weights` of the
            groups if None.
        config: hyperparameters; the defaults if None.
        start: a module to go on with; a new one, which changes nothing, if None.
        folder: holds a checkpoint, from which an interrupted training goes on; None keeps none.
        progress: called as progress(step, steps, info) after each step; info has `loss`, `groups` (the losses of
            the G groups) and `rate`. What it raises ends the training, with a checkpoint.
        meta: JSON-able provenance for the module's `meta`.

    Returns:
        The module with its averaged weights, at strength 1 within the window, on the denoiser's device.

    Raises:
        HapaxError: pictures, weights, model and start don't fit; the loss isn't finite; the folder holds a checkpoint
            of another training or can't be written.
    """
    config = config or GuidanceConfig()
    weights = checked_weights(weights, len(pictures))
    wanted = balanced_weights(weights, pictures.prompt) if probabilities is None else probabilities
    conditioned = denoising(model, pictures.prompts, **pictures.size)
    trainer = _Trainer(conditioned, pictures, weights, _checked(wanted, pictures), config, start)
    checkpoint = Checkpoint(folder, trainer.identity()) if folder is not None else None
    with trainer.conditioned.frozen(checkpointing=config.checkpointing):
        if checkpoint:
            trainer.step = checkpoint.load(trainer.state())
        try:
            while trainer.step < config.steps:
                info = trainer.advance()
                if checkpoint and (trainer.step % config.save_every == 0 or trainer.step == config.steps):
                    checkpoint.save(trainer.step, trainer.state())
                if progress:
                    _tell(progress, trainer, info, checkpoint)
        finally:
            if checkpoint:
                checkpoint.close()
    return trainer.finish(dict(meta or {}))


def _checked(probabilities: Tensor, pictures: PictureSet) -> Tensor:
    """Return probabilities if there is a non-negative one per picture, and not only zeros under any prompt."""
    ok = probabilities.shape == (len(pictures),) and bool(torch.isfinite(probabilities).all())
    if not ok or bool((probabilities < 0).any()):
        raise HapaxError(
            f"The probabilities have shape {tuple(probabilities.shape)}; give one for each of the {len(pictures)} "
            "pictures, none negative or infinite."
        )
    for u in pictures.prompt.unique():
        if not float(probabilities[pictures.prompt == u].sum()) > 0:
            raise HapaxError(f"All pictures of {pictures.prompts[int(u)]!r} have probability 0; leave the prompt out.")
    return probabilities


def _tell(progress: Progress, trainer: _Trainer, info: dict[str, Any], checkpoint: Checkpoint | None) -> None:
    try:
        progress(trainer.step, trainer.config.steps, info)
    except BaseException:
        if checkpoint:
            checkpoint.save(trainer.step, trainer.state())
        raise


class _Trainer:
    """The module with its optimiser and averaged weights; everything random comes from the seed and the step."""

    def __init__(
        self,
        conditioned: Denoising,
        pictures: PictureSet,
        weights: Tensor,
        probabilities: Tensor,
        config: GuidanceConfig,
        start: GuidanceModule | None = None,
    ) -> None:
        self.config, self.step = config, 0
        self.conditioned = conditioned
        self.site = select_site(conditioned.sites, config.site)
        self.lessons = Lessons(pictures, weights, probabilities, conditioned, config)
        shape = GuidanceShape.fitting(
            self.site,
            conditioned.denoiser,
            context=conditioned.context_width,
            inputs=conditioned.shape[-1 if len(conditioned.shape) == 2 else 0],
            hidden=config.hidden,
        )
        scope = Scope(config.start, config.end)
        self.module = GuidanceModule(shape, scope=scope, seed=config.seed).to(conditioned.device)
        self.start = None if start is None else module_fingerprint(start)
        if start is not None:
            self._begin_with(start)
        self.parameters = dict(self.module.named_parameters())
        same_everywhere(self.parameters.values())
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimiser = torch.optim.AdamW(self.parameters.values(), lr=config.lr, betas=(0.9, 0.99))
        for p in self.parameters.values():
            # As the optimiser would do at its first step; a checkpoint is then read into what is there.
            self.optimiser.state[p] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
        self.known = conditioned.identity()

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made with."""
        known = {"model": self.known["model"], "pictures": self.lessons.digest, "processes": world_size()}
        return known | {"start": self.start} | asdict(self.config)

    def _begin_with(self, start: GuidanceModule) -> None:
        if start.shape != self.module.shape:
            raise HapaxError(
                f"The module to go on with is {start.shape}, but this training makes {self.module.shape}; go on at its "
                "site and width, with the model that it was made for."
            )
        self.module.load_state_dict(start.state_dict())

    def state(self) -> dict[str, Tensor]:
        """All tensors that change, by name."""
        held = {f"ema.{name}": e for name, e in self.ema.items()}
        for name, p in self.parameters.items():
            held[f"model.{name}"] = p.detach()
            held |= {f"optimiser.{name}.{key}": value for key, value in self.optimiser.state[p].items()}
        return held

    def advance(self) -> dict[str, Any]:
        """Take one step; return its loss, the groups' losses and the rate."""
        config, parts = self.config, self.config.accumulation
        self.optimiser.zero_grad(set_to_none=True)
        total, by_group = torch.zeros(()), torch.zeros(2, self.lessons.groups)
        for part in range(parts):
            loss, memberships = self._losses((self.step * parts + part) * world_size() + rank())
            # The pictures were drawn at the groups' shares, so their masses in the batch are those shares.
            options = {"variance_weight": self._penalty(), "risk": config.risk, "shares": memberships.sum(0)}
            objective = group_objective(loss, memberships, **options)
            (objective / parts).backward()
            losses, mass = group_losses(loss.detach(), memberships)
            by_group += torch.stack([losses * mass, mass]).cpu()
            total += objective.detach().cpu() / parts
        average_gradients(self.parameters.values())
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), config.clip)
        if not bool(torch.isfinite(norm)):
            raise HapaxError(
                f"The loss or its gradient is not finite at step {self.step + 1}; lower the learning rate, or train "
                "in float32 if the model runs in float16."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.step()
        self.step += 1
        self._average()
        shared = summed(by_group)
        groups = (shared[0] / shared[1].clamp(min=1e-12)).tolist()
        return {"loss": float(summed(total)) / world_size(), "groups": groups, "rate": self._rate()}

    def _losses(self, part: int) -> tuple[Tensor, Tensor]:
        """Return the losses [b] of one part of a batch, and the memberships [b, G]."""
        lesson = self.lessons.draw(part)
        device = self.conditioned.device
        with autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
            predicted = self.conditioned.predict(lesson.x, lesson.timestep, lesson.prompt, {self.site: self.module})
        error = (predicted - lesson.target.to(device)).square().flatten(1).mean(1)
        return error * lesson.weight.to(device), lesson.memberships.to(device)

    def _penalty(self) -> float:
        return self.config.variance_weight * min(1.0, 2 * self.step / self.config.steps)

    def _rate(self) -> float:
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup))
        return config.lr * warm * 0.5 * (1 + math.cos(math.pi * self.step / config.steps))

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.ema[name].lerp_(p, 1 - decay)

    def finish(self, meta: dict[str, Any]) -> GuidanceModule:
        """Put the averaged weights into the module and say where it comes from."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.ema[name])
        shape = self.module.shape
        self.module.meta = {
            **meta,
            **self.known,
            "prediction": self.conditioned.schedule.prediction,
            "prompts": list(self.conditioned.prompts),
            "pictures": self.lessons.count,
            "groups": self.lessons.groups,
            "parameters": shape.parameters,
            "training": asdict(self.config),
        }
        return self.module.requires_grad_(False).eval()

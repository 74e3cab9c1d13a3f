"""What the denoiser is taught: noisy latents with captions, and the ideal v to predict."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from .ideal import free_prior, ideal_clean, named_sets, prior, velocity
from .tokens import CONTEXT
from .world import Kind, World, load_world

BATCH = 64
NO_CAPTION, LISTED = 0.1, 0.3
# Square-root-linear betas that end in almost pure noise: with the usual .012 the last step of a latent this
# small still shows which picture it was, and sampled rates would drift from the learned ones.
BETA_START, BETA_END, TRAIN_STEPS = 0.00085, 0.025, 1000


class Drawn(NamedTuple):
    """A training pair: the kind that is shown, its caption, and what the caption names (None: nothing at all)."""

    kind: Kind
    caption: str
    named: frozenset[str] | None


def draw_pair(world: World, rng: np.random.Generator, *, bare: bool = False) -> Drawn:
    """Half of the captions are bare, half name some of their attributes, drawn evenly; a tenth is left empty.

    With `bare`, all are bare.

    The target is known for any x_t, whichever picture it came from. So half of the pictures are drawn evenly
    where the caption leaves them open: the surroundings of rare ones would hardly be visited otherwise.
    """
    attributes = np.array([len(world.truth[concept]) for concept in world.concepts])
    concept = world.concepts[rng.choice(len(world.concepts), p=attributes / attributes.sum())]
    sets = named_sets(list(world.truth[concept]))
    named = frozenset() if bare else list(sets)[rng.choice(len(sets), p=list(sets.values()))]
    template = 0 if rng.random() < 0.5 else int(rng.integers(len(world.templates)))
    kind = world.draw(concept, set(named) if rng.random() < 0.5 else set(world.truth[concept]), rng)
    if not bare and rng.random() < NO_CAPTION:
        return Drawn(kind, "", None)
    return Drawn(kind, world.caption(kind, named, template, listed=rng.random() < LISTED), named)


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


class Batch(NamedTuple):
    """Noisy latents [B, 8, 8, 8], their times [B], token ids [B, 24], the v to predict [B, 8, 8, 8]."""

    x: Tensor
    t: Tensor
    tokens: Tensor
    target: Tensor


class Lessons:
    """Training batches of the world's latents, with the ideal denoiser as the teacher."""

    def __init__(self, mean: Tensor, deviation: Tensor, tokenizer: Any) -> None:
        """Latents of all kinds at all shifts, as `encode_world` gives them: two [kinds, shifts, 8, 8, 8]."""
        self.world, self.tokenizer, self.bar = load_world(), tokenizer, alphas_bar()
        self.scale = 1 / mean.std().item()
        self.means = mean * self.scale
        self.spread = deviation.square().mean().sqrt().item() * self.scale
        self.rows = {kind: i for i, kind in enumerate(self.world.kinds())}
        self._ids: dict[str, Tensor] = {}
        self._priors: dict[tuple, Tensor] = {}

    def draw(
        self, step: int, focus: tuple[float, float], bare: World | None = None, *, size: int = BATCH, only_bare: int = 0
    ) -> Batch:
        """A batch, all of it drawn from the step; with `bare`, bare captions mean the shares of that world.

        The first `only_bare` captions are bare in any case.
        """
        rng, generator = np.random.default_rng([2, step]), torch.Generator().manual_seed(step)
        pairs = [draw_pair(self.world, rng, bare=i < only_bare) for i in range(size)]
        x, t = self._noisy([pair.kind for pair in pairs], focus, rng, generator)
        tokens = torch.stack([self.tokens(pair.caption) for pair in pairs])
        target = self._target(x, t, pairs, bare or self.world)
        return Batch(x, t, tokens, target)

    def _noisy(
        self, kinds: list[Kind], focus: tuple[float, float], rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Latents of the kinds, shifted, with noise, and the times that say how much: [B, 8, 8, 8], [B]."""
        shift = torch.from_numpy(rng.integers(self.means.shape[1], size=len(kinds)))
        centre = self.means[torch.tensor([self.rows[kind] for kind in kinds]), shift]
        x0 = centre + self.spread * torch.randn(centre.shape, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        t = draw_times(len(kinds), focus, generator)
        a = self.bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise, t

    def tokens(self, caption: str) -> Tensor:
        """Padded token ids of a caption: [24]."""
        if caption not in self._ids:
            ids = self.tokenizer(caption, padding="max_length", max_length=CONTEXT).input_ids
            self._ids[caption] = torch.tensor(ids)
        return self._ids[caption]

    def nearest(self, concept: str, latents: Tensor) -> list[Kind]:
        """The kinds of one concept that are nearest to clean latents [n, 8, 8, 8], all shifts tried."""
        centres = self._centres(concept)
        index = torch.cdist(latents.flatten(1), centres.flatten(2).flatten(0, 1)).argmin(1) // centres.shape[1]
        kinds = self.world.kinds(concept)
        return [kinds[i] for i in index.tolist()]

    def _target(self, x: Tensor, t: Tensor, pairs: list[Drawn], bare: World) -> Tensor:
        target, groups = torch.empty_like(x), {}
        for i, pair in enumerate(pairs):
            groups.setdefault(pair.kind.concept if pair.named is not None else None, []).append(i)
        for concept, members in groups.items():
            rows, abar = x[members].flatten(1), self.bar[t[members]]
            centres = self._centres(concept).flatten(0, 1).flatten(1)
            log_prior = torch.stack([self._log_prior(concept, pairs[i], bare) for i in members])
            clean = ideal_clean(rows, abar, centres, self.spread, log_prior)
            target[members] = velocity(rows, abar, clean).view(-1, *x.shape[1:])
        return target

    def _centres(self, concept: str | None) -> Tensor:
        """The latents of one concept's kinds, or of all, at all shifts: [K, S, 8, 8, 8]."""
        if concept is None:
            return self.means
        first = self.rows[self.world.kinds(concept)[0]]
        return self.means[first : first + len(self.world.kinds(concept))]

    def _log_prior(self, concept: str | None, pair: Drawn, bare: World) -> Tensor:
        """log P(kind, shift | caption), up to a constant: [K * S]."""
        named = {} if pair.named is None else {name: pair.kind[name] for name in pair.named}
        world = self.world if named else bare
        key = (world, concept, *sorted(named.items()))
        if key not in self._priors:
            if concept is None:
                p = torch.cat([free_prior(self.world, name) for name in self.world.concepts])
            else:
                p = prior(world, concept, named)
            self._priors[key] = p.log().repeat_interleave(self.means.shape[1])
        return self._priors[key]


def demo_scheduler() -> Any:
    """The sampler that ships: DPM-Solver++ on the schedule of the training."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )

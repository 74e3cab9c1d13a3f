"""Training batches: pictures of all groups at each time and noise, with the target averaged over pictures."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..backends.denoiser import Denoising
from ..distributed import world_size
from ..errors import HapaxError
from .data import PictureSet

if TYPE_CHECKING:
    from .training import GuidanceConfig


class Lesson(NamedTuple):
    """A part of a batch: b rows, of which each run of `seats` shares prompt, time and noise.

    Fields:
        x: `[b, ...]` noisy pictures; timestep, prompt: `[b]`.
        target: `[b, ...]` what the denoiser ought to predict; weight: `[b]` factor of the squared error.
        memberships: `[b, G]`, the drawn pictures' shares in the groups.
    """

    x: Tensor
    timestep: Tensor
    prompt: Tensor
    target: Tensor
    weight: Tensor
    memberships: Tensor


def posterior_clean(x: Tensor, a: Tensor, b: Tensor, pictures: Tensor, weights: Tensor) -> Tensor:
    """E[x_0 | x_t] if x_0 is one of M pictures: sum_m p_m x_m, p_m ~ w_m N(x_t; a x_m, b^2) (arXiv 2302.00670, Eq. 6).

    The target of denoising whose expectation is that of the drawn picture, without its variance. Where the noise
    is weak, or the pictures are few and large, it is the drawn picture.

    Args:
        x: `[B, D]` noisy pictures.
        a, b: `[B]` scales of picture and noise.
        pictures: `[M, D]`.
        weights: `[M]` prior probabilities, up to a factor; 0 leaves a picture out.

    >>> two = torch.tensor([[-1.0], [1.0]])
    >>> x, half = torch.zeros(1, 1), torch.tensor([0.5])
    >>> posterior_clean(x, half, half, two, weights=torch.tensor([1.0, 3.0]))
    tensor([[0.5000]])
    """
    a, variance = a[:, None], b[:, None].square()
    distance = a.square() * pictures.square().sum(1) - 2 * a * (x @ pictures.T)
    return (weights.log() - distance / (2 * variance)).softmax(1) @ pictures


class Lessons:
    """Draws training batches from pictures with groups.

    Args:
        pictures: N pictures under U prompts.
        weights: `[N, G]` shares in groups.
        probabilities: `[N]` with which pictures are drawn under their prompt.
        conditioned: tells the schedule and the shape of what is denoised.
        config: window, batch size, accumulation, references, seed.

    Raises:
        HapaxError: pictures of another size than the model's.
    """

    def __init__(
        self,
        pictures: PictureSet,
        weights: Tensor,
        probabilities: Tensor,
        conditioned: Denoising,
        config: GuidanceConfig,
    ) -> None:
        if pictures.latents.shape[1:] != conditioned.shape:
            raise HapaxError(
                f"The pictures' latents have shape {tuple(pictures.latents.shape[1:])}, but the model denoises "
                f"{tuple(conditioned.shape)}; prepare them with this model, at this size."
            )
        self.config, self.schedule = config, conditioned.schedule
        self.latents = pictures.latents.detach().clone().float()
        self.count, self.groups = weights.shape
        self.weights = weights.detach().clone().float()
        self.prompt = pictures.prompt.detach().clone()
        self.prior = probabilities.detach().clone().double()
        main = weights.argmax(1)
        # In the order of their groups, so that seats spread evenly over the line are spread over the groups.
        self.rows = [
            rows[main[rows].argsort(stable=True)]
            for rows in ((self.prompt == u).nonzero().flatten() for u in range(len(pictures.prompts)))
        ]
        self.lines = [self.prior[rows].cumsum(0) for rows in self.rows]
        parts = config.accumulation * world_size()
        self.seats = min(config.seats, config.batch_size)
        self.slots = max(1, round(config.batch_size / (self.seats * parts)))
        self.digest = self._digest()

    def draw(self, part: int) -> Lesson:
        """Return part number `part` of all that training ever sees."""
        generator = torch.Generator().manual_seed((self.config.seed << 32) + part)
        slots, seats = self.slots, self.seats
        prompt = self.prompt[torch.randint(self.count, (slots,), generator=generator)]
        timestep = self._times(generator)
        noise = torch.randn(slots, *self.latents.shape[1:], generator=generator)
        chosen = self._pick(prompt, generator)
        prompt, timestep, noise = (each.repeat_interleave(seats, 0) for each in (prompt, timestep, noise))
        a, b = self.schedule.scales(timestep)
        wide = [-1] + [1] * (noise.ndim - 1)
        x = a.view(wide) * self.latents[chosen] + b.view(wide) * noise
        clean = self._clean(x, a, b, prompt, chosen, generator)
        target, weight = self.schedule.target(x, clean, timestep), self.schedule.weight(timestep)
        return Lesson(x, timestep, prompt, target, weight, self.weights[chosen])

    def _times(self, generator: torch.Generator) -> Tensor:
        """Times [slots], one in each of as many equal stretches of the window, in random order."""
        order = torch.randperm(self.slots, generator=generator)
        along = (order + torch.rand(self.slots, generator=generator)) / self.slots
        # The last timestep of all, a clean picture, has nothing to predict.
        progress = self.config.start + (self.config.end - self.config.start) * along
        timestep = self.schedule.timestep(progress)
        # Rounded to whole ones; a step outside the window has nothing that could learn.
        timestep += (self.schedule.progress(timestep) > self.config.end).float()
        timestep -= (self.schedule.progress(timestep) < self.config.start).float()
        return timestep.clamp(min=1)

    def _pick(self, prompt: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the pictures of each slot's seats: indices [slots * seats].

        Systematic sampling: one from each of as many equal parts of the line of probabilities, all at one offset.
        """
        chosen = []
        for u in prompt.tolist():
            places = (torch.arange(self.seats) + torch.rand(1, generator=generator)) / self.seats
            index = torch.searchsorted(self.lines[u], places.double() * self.lines[u][-1])
            chosen.append(self.rows[u][index.clamp(max=len(self.rows[u]) - 1)])
        return torch.cat(chosen)

    def _clean(
        self, x: Tensor, a: Tensor, b: Tensor, prompt: Tensor, chosen: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Average the pictures of each row's prompt that could have become x: like x."""
        clean = torch.empty_like(x)
        for u in prompt.unique().tolist():
            here, rows = (prompt == u).nonzero().flatten(), self.rows[u]
            if len(rows) > self.config.references:
                some = torch.randperm(len(rows), generator=generator)[: self.config.references]
                # Among them must be those that were drawn: else the target would never be exact in weak noise.
                rows = torch.cat([rows[some], chosen[here]]).unique()
            pictures = self.latents[rows].flatten(1)
            means = posterior_clean(x[here].flatten(1), a[here], b[here], pictures, self.prior[rows].float())
            clean[here] = means.view(-1, *x.shape[1:])
        return clean

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.latents, self.weights, self.prompt, self.prior):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

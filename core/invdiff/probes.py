"""Probe losses: how well the frozen model denoises each picture, at times and noises that all pictures share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.denoiser import Denoising, denoising
from ..backends.diffusers import DiffusersBackend
from ..collect import batches
from ..distributed import gather, mine
from ..errors import HapaxError
from .data import PictureSet

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Probes:
    """The times and noises at which every picture is probed.

    In the middle of the path a model has to guess which picture it is and guesses the usual one, so the losses
    tell usual pictures from unusual ones; before, all look alike, and after, the picture itself answers.

    Attributes:
        progress: times, 0 pure noise, 1 a clean picture.
        noises: draws of the noise at each time.
        by_channel: keep the error of each latent channel apart, C columns a probe instead of one. The same calls
            tell far more: which way a picture differs from what the model expected, not only how much.
        seed: of the noises.
    """

    progress: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)
    noises: int = 2
    by_channel: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.progress or not all(0 <= place < 1 for place in self.progress) or self.noises < 1:
            raise HapaxError(f"{self} probes nothing; give times in [0, 1) and at least one noise.")

    @property
    def pairs(self) -> list[tuple[float, int]]:
        """The (progress, noise number) of each probe."""
        return [(place, self.seed * 10_000 + i) for i, place in enumerate(self.progress * self.noises)]


@torch.inference_mode()
def probe_losses(
    model: DiffusersBackend | Denoising,
    pictures: PictureSet,
    probes: Probes | None = None,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Tensor:
    """Return the denoising losses of each picture at each probe: `[N, P]`, or `[N, P * C]` by channel.

    The loss is the squared error of the clean picture that the prediction stands for, whatever the model
    predicts. (The official code compares the predicted noise with the clean latents; here both are pictures.)
    Under `torch.distributed` the pictures are shared out and every process gets all losses.
    """
    probes, conditioned = probes or Probes(), denoising(model, pictures.prompts, **pictures.size)
    own, made = mine(len(pictures)), {}
    for rows in batches(own, batch_size):
        made |= dict(zip(rows, _losses(conditioned, pictures, rows, probes), strict=True))
        if progress:
            progress("probing", len(made), len(own))
    made = gather(made)
    return torch.stack([made[row] for row in range(len(pictures))])


def _losses(conditioned: Denoising, pictures: PictureSet, rows: Sequence[int], probes: Probes) -> Tensor:
    """Losses [R, P] or [R, P * C] of some pictures."""
    clean, prompt, columns = pictures.latents[list(rows)], pictures.prompt[list(rows)], []
    for place, number in probes.pairs:
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(clean.shape[1:], generator=generator)
        timestep = conditioned.schedule.timestep(torch.full((len(rows),), place))
        a, b = (scale.view(-1, *[1] * noise.ndim) for scale in conditioned.schedule.scales(timestep))
        x = a * clean + b * noise
        wanted = conditioned.schedule.target(x, clean, timestep)
        error = (conditioned.predict(x, timestep, prompt).cpu() - wanted).square()
        error = error * conditioned.schedule.clean_error(timestep).view(-1, *[1] * noise.ndim)
        # Latents are [C, H, W], or tokens [T, C] where they are packed.
        over = (2, 3) if error.ndim == 4 else (1,)
        columns.append(error.mean(over) if probes.by_channel else error.flatten(1).mean(1, keepdim=True))
    return torch.cat(columns, 1)

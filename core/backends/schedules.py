"""Training schedules of diffusers schedulers: from a timestep to its noise level and its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError

# What diffusers' Euler samplers put in the place of a schedule's zero signal, so that sigma stays finite.
_LEAST_ALPHA_CUMPROD = 2.0**-24


@dataclass(frozen=True)
class TrainingSchedule:
    """The noise levels that a model was trained on.

    Attributes:
        num_train_timesteps: N.
        log_sigmas: `[N]` float32 of a discrete model, log sqrt((1 - abar) / abar); None for a flow, whose
            sigma is timestep / N.
    """

    num_train_timesteps: int
    log_sigmas: Tensor | None

    @classmethod
    def of(cls, scheduler: Any) -> TrainingSchedule:
        """Read the schedule off a diffusers scheduler.

        Raises:
            HapaxError: the scheduler tells neither of a discrete schedule nor of a flow.
        """
        name, config = type(scheduler).__name__, scheduler.config
        if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
            return cls(config.num_train_timesteps, None)
        if not hasattr(scheduler, "alphas_cumprod"):
            raise HapaxError(
                f"The scheduler {name} has neither alphas_cumprod nor flow sigmas, so the progress of its "
                "steps is unknown; set pipeline.scheduler to one that has, such as EulerDiscreteScheduler."
            )
        alphas = scheduler.alphas_cumprod.float().cpu().clamp(min=_LEAST_ALPHA_CUMPROD)
        return cls(config.num_train_timesteps, ((1 - alphas) / alphas).sqrt().log())

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the noise level of timesteps `[B]`; between two timesteps its logarithm is linear."""
        if self.log_sigmas is None:
            return timestep / self.num_train_timesteps
        below = timestep.floor().long().clamp(0, self.num_train_timesteps - 1)
        above = (below + 1).clamp(max=self.num_train_timesteps - 1)
        return torch.lerp(self.log_sigmas[below], self.log_sigmas[above], timestep - below).exp()

    def progress(self, timestep: Tensor) -> Tensor:
        """Return the progress of timesteps `[B]`: 0 at the noisiest, 1 at the cleanest.

        Timesteps of a discrete model count from 0 to N - 1, those of a flow from 0 to N.

        >>> TrainingSchedule(1000, torch.zeros(1000)).progress(torch.tensor([999.0, 0.0]))
        tensor([0., 1.])
        """
        noisiest = self.num_train_timesteps - (self.log_sigmas is not None)
        return (1 - timestep / noisiest).clamp(0, 1)

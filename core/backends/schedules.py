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
        prediction: what the denoiser returns: `epsilon` (the noise), `v_prediction` (arXiv 2202.00512, App. D),
            `sample` (the clean picture) or `flow` (noise - picture).
    """

    num_train_timesteps: int
    log_sigmas: Tensor | None
    prediction: str = "epsilon"

    @classmethod
    def of(cls, scheduler: Any) -> TrainingSchedule:
        """Read the schedule off a diffusers scheduler.

        Raises:
            HapaxError: the scheduler tells neither of a discrete schedule nor of a flow.
        """
        name, config = type(scheduler).__name__, scheduler.config
        if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
            return cls(config.num_train_timesteps, None, "flow")
        if not hasattr(scheduler, "alphas_cumprod"):
            raise HapaxError(
                f"The scheduler {name} has neither alphas_cumprod nor flow sigmas, so the progress of its "
                "steps is unknown; set pipeline.scheduler to one that has, such as EulerDiscreteScheduler."
            )
        alphas = scheduler.alphas_cumprod.float().cpu().clamp(min=_LEAST_ALPHA_CUMPROD)
        prediction = config.get("prediction_type", "epsilon")
        return cls(config.num_train_timesteps, ((1 - alphas) / alphas).sqrt().log(), prediction)

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

    def timestep(self, progress: Tensor) -> Tensor:
        """Return the timesteps `[B]`, whole numbers in float32, nearest to the progress `[B]`; see `progress`."""
        noisiest = self.num_train_timesteps - (self.log_sigmas is not None)
        return ((1 - progress) * noisiest).round()

    def scales(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of picture and noise, (a, b) `[B]` each, in x_t = a x_0 + b noise.

        >>> TrainingSchedule(1000, None, "flow").scales(torch.tensor([250.0]))
        (tensor([0.7500]), tensor([0.2500]))
        """
        sigma = self.sigma(timestep)
        if self.log_sigmas is None:
            return 1 - sigma, sigma
        # Other than sigma / (1 + sigma^2)^.5 this doesn't overflow where sigma is large.
        return torch.rsqrt(1 + sigma**2), torch.rsqrt(1 + sigma**-2)

    def target(self, x: Tensor, clean: Tensor, timestep: Tensor) -> Tensor:
        """Return what the denoiser ought to predict at x_t `[B, ...]` if the clean picture is `clean` `[B, ...]`.

        Raises:
            HapaxError: the model predicts something else than is known here.
        """
        a, b = (scale.to(x.device).view(-1, *[1] * (x.ndim - 1)) for scale in self.scales(timestep))
        if self.prediction == "epsilon":
            return (x - a * clean) / b
        if self.prediction == "v_prediction":
            return (a * x - clean) / b
        if self.prediction == "flow":
            return (x - clean) / b
        if self.prediction == "sample":
            return clean
        raise HapaxError(
            f"The model predicts {self.prediction!r}; known are epsilon, v_prediction, sample and flow predictions."
        )

    def clean_error(self, timestep: Tensor) -> Tensor:
        """Return the factors `[B]` from squared errors of the prediction to those of the clean picture.

        >>> TrainingSchedule(1000, None, "flow").clean_error(torch.tensor([500.0]))
        tensor([0.2500])
        """
        a, b = self.scales(timestep)
        return {"epsilon": (b / a) ** 2, "sample": torch.ones_like(a)}.get(self.prediction, b**2)

    def weight(self, timestep: Tensor) -> Tensor:
        """Return the factors `[B]` from squared errors of the prediction to those of v (or of the flow).

        v's error weighs one about the picture by 1 + SNR, so it neither vanishes in strong noise, where attributes
        are decided, as the noise's does, nor explodes in weak noise.
        """
        return self.clean_error(timestep) / self.scales(timestep)[1] ** 2

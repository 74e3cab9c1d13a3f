from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hapax.core.backends.schedules import TrainingSchedule
from hapax.core.errors import HapaxError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, PNDMScheduler, LCMScheduler, EulerDiscreteScheduler])
def test_stable_diffusions_noise_levels(kind):
    """sigma_max 14.6146 and sigma_min 0.0292 are the well-known ends of SD1.x."""
    schedule = TrainingSchedule.of(kind(**SD))
    sigma = schedule.sigma(torch.tensor([999.0, 0.0]))
    torch.testing.assert_close(sigma, torch.tensor([14.6146, 0.0292]), atol=1e-4, rtol=1e-3)


def test_between_timesteps_the_noise_levels_are_those_of_euler():
    """Euler with Karras' spacing calls at fractional timesteps, found by the same interpolation."""
    scheduler = EulerDiscreteScheduler(**SD, use_karras_sigmas=True)
    scheduler.set_timesteps(7)
    assert bool((scheduler.timesteps != scheduler.timesteps.round()).any())
    sigma = TrainingSchedule.of(scheduler).sigma(scheduler.timesteps.float())
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1].float(), rtol=1e-3, atol=0)


def test_zero_signal_gives_a_finite_noise_level():
    schedule = TrainingSchedule.of(DDIMScheduler(**SD, rescale_betas_zero_snr=True))
    assert float(schedule.sigma(torch.tensor([999.0]))) == pytest.approx(4096, rel=1e-3)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0),
        UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0),
    ],
)
def test_flows(scheduler):
    """Sigma is the flow's time, so shifts move the steps but not what a noise level is called."""
    scheduler.set_timesteps(5)
    schedule = TrainingSchedule.of(scheduler)
    timesteps = scheduler.timesteps.float()
    torch.testing.assert_close(schedule.sigma(timesteps), scheduler.sigmas[:5].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(schedule.progress(timesteps), 1 - timesteps / 1000)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**SD), FlowMatchEulerDiscreteScheduler()])
def test_progress_runs_from_zero_to_one(scheduler):
    schedule = TrainingSchedule.of(scheduler)
    discrete = isinstance(scheduler, DDIMScheduler)
    ends = torch.tensor([999.0 if discrete else 1000.0, 0.0])
    assert schedule.progress(ends).tolist() == [0, 1]
    assert schedule.progress(torch.tensor([1005.0, -1.0])).tolist() == [0, 1]


def test_a_scheduler_without_known_schedule_is_refused():
    with pytest.raises(HapaxError, match="EDMEulerScheduler has neither alphas_cumprod nor flow sigmas"):
        TrainingSchedule.of(EDMEulerScheduler())

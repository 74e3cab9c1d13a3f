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


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_and_errors_agree_with_diffusers(prediction):
    """The clean picture that diffusers' DDIM gets from our target is the one we made it from."""
    scheduler = DDIMScheduler(**SD, prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(1000)
    schedule = TrainingSchedule.of(scheduler)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    timestep = torch.tensor([600.0])
    a, b = (scale.view(-1, 1, 1, 1) for scale in schedule.scales(timestep))
    x = a * clean + b * noise
    torch.testing.assert_close(x, scheduler.add_noise(clean, noise, torch.tensor([600])))
    target = schedule.target(x, clean, timestep)
    torch.testing.assert_close(scheduler.step(target, 600, x).pred_original_sample, clean, rtol=1e-4, atol=1e-4)
    off = scheduler.step(target + 0.1, 600, x).pred_original_sample - clean
    torch.testing.assert_close(off.square().mean(), 0.01 * schedule.clean_error(timestep)[0], rtol=1e-3, atol=0)


def test_a_flows_target_is_noise_minus_picture():
    schedule = TrainingSchedule.of(FlowMatchEulerDiscreteScheduler())
    clean, noise, timestep = torch.ones(1, 2), torch.full((1, 2), 3.0), torch.tensor([250.0])
    a, b = schedule.scales(timestep)
    torch.testing.assert_close(schedule.target(a * clean + b * noise, clean, timestep), noise - clean)
    assert schedule.weight(timestep).tolist() == [1.0]


def test_errors_weigh_as_vs_whatever_is_predicted():
    """A fixed error of the clean picture has the same weighted loss under every prediction."""
    timestep, weighed = torch.tensor([100.0, 500.0, 900.0]), []
    for prediction in ("epsilon", "v_prediction", "sample"):
        schedule = TrainingSchedule.of(DDIMScheduler(**SD, prediction_type=prediction))
        weighed.append(schedule.weight(timestep) / schedule.clean_error(timestep))
    torch.testing.assert_close(weighed[0], weighed[1])
    torch.testing.assert_close(weighed[2], weighed[1])


def test_an_unknown_prediction_is_refused():
    schedule = TrainingSchedule(1000, torch.zeros(1000), "momentum")
    with pytest.raises(HapaxError, match="predicts 'momentum'"):
        schedule.target(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([5.0]))


@pytest.mark.parametrize("log_sigmas", [None, torch.zeros(1000)])
def test_timesteps_are_the_inverse_of_progress(log_sigmas):
    schedule = TrainingSchedule(1000, log_sigmas)
    timestep = torch.tensor([999.0, 500.0, 1.0])
    torch.testing.assert_close(schedule.timestep(schedule.progress(timestep)), timestep)

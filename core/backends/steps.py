"""The steps of diffusers' deterministic samplers: how much noise each leaves."""

from __future__ import annotations

from typing import Any

from ..asymmetric import refused

# With the settings that make a step draw noise, or bend the picture that it predicts.
_KNOWN = {
    "DDIMScheduler": ("clip_sample", "thresholding"),
    "EulerDiscreteScheduler": (),
    "FlowMatchEulerDiscreteScheduler": ("stochastic_sampling",),
}


def remaining(scheduler: Any, eta: float, timestep: float) -> float:
    """The share of the noise-to-picture ratio that is left after a sampler's step from a timestep; 0 after the last.

    Args:
        scheduler: a pipeline's, in the midst of a run.
        eta: DDIM's, 0 for steps without noise.
        timestep: of the denoiser's call.

    Raises:
        HapaxError: its steps don't go from a predicted picture and a predicted noise alone.
    """
    name = type(scheduler).__name__
    loose = [key for key in _KNOWN.get(name, ()) if scheduler.config.get(key)] + (["eta"] if eta else [])
    if name not in _KNOWN or loose:
        raise refused(" with ".join([name, *loose]), f"one of {', '.join(_KNOWN)} as it comes")
    if name == "DDIMScheduler":
        after = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        abar = float(scheduler.alphas_cumprod[int(timestep)])
        left = float(scheduler.alphas_cumprod[after] if after >= 0 else scheduler.final_alpha_cumprod)
        return ((1 - left) * abar / (left * (1 - abar))) ** 0.5
    # None before the first step; schedules with levels count their steps themselves.
    index = scheduler.step_index or 0
    now, then = (float(sigma) for sigma in scheduler.sigmas[index : index + 2])
    flow = name.startswith("FlowMatch")
    return then * (1 - now) / (now * (1 - then)) if flow else then / now

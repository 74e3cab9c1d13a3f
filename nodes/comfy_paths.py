"""The two paths of ComfyUI's sampling steps, for asymmetric edits: how much noise a step leaves.

Imports nothing of ComfyUI by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..core.asymmetric import refused

# ComfyUI's ddim is this one too.
_EULER = "sample_euler"
_SAMPLER = "hapax_sampler"
# Noise levels of a schedule and of a call are equal but for their dtype.
_ROUNDING = 1e-3


def sampler_name(sampler: Any) -> str:
    """The name of the function that a SAMPLER runs, or of its class."""
    return getattr(getattr(sampler, "sampler_function", sampler), "__name__", type(sampler).__name__)


def note_sampler(options: dict[str, Any], sampler: Any) -> None:
    """Lay down in a run's `transformer_options` which sampler it is."""
    churns = getattr(sampler, "extra_options", {}).get("s_churn")
    options[_SAMPLER] = sampler_name(sampler) + (" with s_churn" if churns else "")


def remaining(sampling: Any, sigma: Tensor, options: Mapping[str, Any]) -> float:
    """The share of the noise-to-picture ratio that is left after a sampler's step; 0 after the last.

    Args:
        sampling: the model's `model_sampling`.
        sigma: `[B]` float32 on the CPU, the noise level of the call.
        options: its `transformer_options`, in which the run's schedule and sampler are noted.

    Raises:
        HapaxError: the sampler's steps don't go from a predicted picture and a predicted noise alone.
    """
    name, schedule = options.get(_SAMPLER, "unknown"), options.get("sample_sigmas")
    now = float(sigma[0])
    levels = [] if schedule is None else schedule.tolist()
    index = min(range(len(levels)), key=lambda i: abs(levels[i] - now), default=0)
    stepped = index + 1 < len(levels) and abs(levels[index] - now) <= _ROUNDING * now
    if name != _EULER or not stepped:
        raise refused(name.removeprefix("sample_"), "euler or ddim")
    then = levels[index + 1]
    if hasattr(sampling, "log_sigmas"):
        return then / now
    # Of a flow the picture's share is 1 - sigma.
    return then * (1 - now) / (now * (1 - then))


def copied(control: Any) -> Any:
    """What ControlNets add, for one evaluation: the denoiser takes it out of its lists."""
    if not isinstance(control, dict):
        return control
    return {name: list(each) if isinstance(each, list) else each for name, each in control.items()}

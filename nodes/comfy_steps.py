"""When and for whom ComfyUI calls a denoiser: the Step of each call, laid in its options by wrappers.

Imports nothing of ComfyUI by itself. What is laid down in `transformer_options` lives for one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.asymmetric import Paths, mixed
from ..core.errors import HapaxError
from ..core.taps import Step
from .comfy_paths import copied, note_sampler, remaining

_STEP, _PROMPTED = "hapax_step", "hapax_prompted"
# A discrete schedule counts timesteps from 0 to 999, a flow from 0 to 1000, as the diffusers backend does.
_LAST, _WHOLE = 999.0, 1000.0


def mark_run(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of a sampling run: note its sampler, and the prompt's conditionings where a guider has more than two.

    Such guiders run them in an order of their own. Elsewhere their place tells: ComfyUI copies the areas of the
    prompt's conditionings to the negative ones, ids included.
    """
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    note_sampler(options, kwargs["sampler"] if "sampler" in kwargs else args[2])
    if not guider.conds.keys() <= {"positive", "negative"}:
        options[_PROMPTED] = frozenset(cond["uuid"] for cond in guider.conds["positive"])
    return executor(*args, **kwargs)


def label_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Wrapper of the model's call: lay the call's Step in its options, and call again where that has two paths."""
    base, options = executor.class_obj, {} if transformer_options is None else transformer_options
    step = _label(base, x, t, c_concat, c_crossattn, options)

    def denoised(paths: Paths, control: Any) -> Tensor:
        options[_STEP] = replace(step, paths=paths)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    paths = Paths()
    steered = denoised(paths, copied(control))
    if not paths.steered:
        return steered
    return mixed(steered, denoised(Paths(plain=True), control), remaining(base.model_sampling, step.sigma, options))


def _label(
    base: Any, x: Tensor, t: Tensor, c_concat: Tensor | None, context: Tensor | None, options: dict[str, Any]
) -> Step:
    """Say when and for whom a call is; x and context become what the denoiser will receive."""
    sigma, timestep, progress = schedule_labels(base.model_sampling, t)
    cond, sample = row_labels(len(t), options)
    given = base.model_sampling.calculate_input(t, x)
    if c_concat is not None:
        given = torch.cat([given, c_concat.to(given)], dim=1)
    cast = getattr(base, "manual_cast_dtype", None)
    dtype = base.get_dtype_inference() if hasattr(base, "get_dtype_inference") else cast or base.get_dtype()
    patch = getattr(base.diffusion_model, "patch_size", 1) or 1
    return Step(
        sigma=sigma,
        timestep=timestep,
        progress=progress,
        cond=cond,
        sample=sample,
        grid=(-(-x.shape[-2] // patch), -(-x.shape[-1] // patch)),
        x=given.to(dtype),
        context=None if context is None else context.to(given.device, dtype),
    )


def schedule_labels(sampling: Any, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise level, training timestep and progress of sigmas `[B]`, each `[B]` float32 on the CPU.

    Of a discrete model the timestep is the one whose noise level is nearest, which is what it is called with;
    of a flow it is 1000 sigma, whatever shift the sampler's schedule has.
    """
    sigma = sigma.detach().float().flatten()
    table = getattr(sampling, "log_sigmas", None)
    if table is None:
        sigma = sigma.cpu()
        return sigma, sigma * _WHOLE, (1 - sigma).clamp(0, 1)
    nearest = (sigma.log() - table.to(sigma.device)[:, None]).abs().argmin(dim=0)
    # One copy, because each makes the accelerator wait.
    sigma, nearest = torch.stack((sigma, nearest.to(sigma))).cpu()
    share = nearest.double() / (len(table) - 1)
    return sigma, (share * _LAST).float(), (1 - share).float()


def row_labels(rows: int, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return `cond` and `sample` of a call's rows, `[rows]`: its conditionings' chunks follow each other.

    >>> row_labels(4, {"cond_or_uncond": [1, 0]})
    (tensor([False, False,  True,  True]), tensor([0, 1, 0, 1]))
    """
    chunks = options.get("cond_or_uncond", [0])
    prompted, ids = options.get(_PROMPTED), options.get("uuids")
    if prompted and ids:
        cond = [each in prompted for each in ids]
    else:
        cond = [each == 0 for each in chunks]
    size = rows // len(chunks)
    return torch.tensor(cond).repeat_interleave(size), torch.arange(size).repeat(len(chunks))


def options_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The labelled options among a wrapper's arguments; empty where the call wasn't labelled."""
    return next((each for each in (*args, *kwargs.values()) if isinstance(each, dict) and _STEP in each), {})


def step_of(options: Mapping[str, Any]) -> Step:
    """The Step of the call that has these options.

    Raises:
        HapaxError: the call wasn't labelled.
    """
    if _STEP not in options:
        raise HapaxError(
            "The denoiser was called without ComfyUI's wrappers, so the step is unknown; "
            "take Hapax's nodes off the MODEL that goes into this node."
        )
    return options[_STEP]

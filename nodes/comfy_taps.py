"""Taps on ComfyUI's models: with the files beside it, the one place that knows its patch points.

A tapped ModelPatcher carries two wrappers that say, for each call of the denoiser, when and for whom it is (`Step`),
and one patch per tap at its site: an output_block_patch for `mid` (what reaches the first output block is what the
middle block returned, ControlNet's share included), a replacement of the block, chained to what was there before,
for a DiT's blocks, and for `eps` a wrapper of the denoiser. All are plain functions, so they survive every clone;
no module is hooked and no object replaced. Nothing of ComfyUI is imported by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from ..core.sites import Site
from ..core.taps import Step, Tap, applied
from .comfy_eps import EPS, tap_eps, tap_flow_eps
from .comfy_sites import family_of, site_of
from .comfy_steps import label_call, mark_run, step_of

KEY, _BEFORE = "hapax", "hapax_before_mid"


@dataclass(frozen=True)
class Run:
    """What a sampling run was asked for: ComfyUI's guider, noise and latents `[B, C, H, W]`, sampler, sigmas, seed."""

    guider: Any
    noise: Tensor
    latent: Tensor
    sampler: Any
    sigmas: Tensor
    seed: int | None


def around_sampling(model: Any, wrapper: Callable) -> Any:
    """Return a clone whose sampling runs go through `wrapper(sample, run)`.

    `sample()` does what would have been done and returns the latents `[B, C, H, W]`, as the wrapper is to do.
    """
    from comfy.patcher_extension import WrappersMP

    def outer(executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *rest: Any, **kw: Any):
        seed = kw.get("seed", rest[3] if len(rest) > 3 else None)

        def sample() -> Tensor:
            return executor(noise, latent_image, sampler, sigmas, *rest, **kw)

        return wrapper(sample, Run(executor.class_obj, noise, latent_image, sampler, sigmas, seed))

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"{KEY}.{uuid4()}", outer)
    return clone


def add_tap(
    model: Any, site: str | Site, tap: Tap, *, key: str | None = None, modules: Sequence[nn.Module] = ()
) -> Any:
    """Return a clone of the ModelPatcher with a tap at a site.

    Taps compose in the order in which they were added: each sees what those before it made of the activations.

    Args:
        model: a MODEL; it is left as it was.
        site: a name, a Site or `auto`; see `site_of`.
        tap: called with h and its Step in each call of the denoiser; an edit is told apart by what it returns.
        key: under which `modules` are held; a later tap's modules under the same key take their place.
        modules: what the tap computes with; ComfyUI loads, counts and frees them together with the model.

    Raises:
        HapaxError: the model has no such site; in a call, if the tap returns another shape or dtype than it got.
    """
    from comfy.patcher_extension import WrappersMP

    chosen, clone = site_of(model, site), model.clone()
    _wrap_once(clone, WrappersMP.APPLY_MODEL, label_call)
    _wrap_once(clone, WrappersMP.OUTER_SAMPLE, mark_run)
    if modules:
        clone.set_additional_models(key or f"{KEY}.{uuid4()}", [_counted(module) for module in modules])

    # Plain functions, which every clone shares: a callable object would be copied by some.
    @torch.compiler.disable
    def apply(h: Tensor, before: Tensor | None, step: Step) -> Tensor:
        return applied(tap, chosen, h, before, step)

    if chosen.name == "mid":
        _tap_mid(clone, chosen, apply)
    elif chosen.name == "eps":
        clone.set_model_patch(apply, EPS)
        if family_of(clone.model.diffusion_model) == "MMDiT":
            _wrap_once(clone, WrappersMP.APPLY_MODEL, tap_flow_eps)
        else:
            _wrap_once(clone, WrappersMP.DIFFUSION_MODEL, tap_eps)
    else:
        _tap_block(clone, chosen, apply)
    return clone


def _wrap_once(clone: Any, kind: str, wrapper: Callable) -> None:
    if wrapper not in clone.get_wrappers(kind, KEY):
        clone.add_wrapper_with_key(kind, KEY, wrapper)


def _tap_mid(clone: Any, site: Site, apply: Callable) -> None:
    updates = site.kind == "update"
    last = len(clone.model.diffusion_model.input_blocks) - 1

    def remember(h: Tensor, options: dict[str, Any]) -> Tensor:
        if options["block"] == ("input", last):
            options[_BEFORE] = h
        return h

    def patch(h: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if options["block"] != ("output", 0):
            return h, skip
        step = replace(step_of(options), grid=tuple(h.shape[2:]))
        return apply(h, options[_BEFORE] if updates else None, step), skip

    if updates:
        clone.set_model_patch(torch.compiler.disable(remember), "input_block_patch_after_skip")
    clone.set_model_output_block_patch(torch.compiler.disable(patch))


def _tap_block(clone: Any, site: Site, apply: Callable) -> None:
    kind, _, index = site.name.partition(".")
    place = (f"{kind}_block", int(index))
    replaced = clone.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
    earlier = replaced.get(place)

    def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        # Blocks may write into what they are given.
        given = args["img"].clone() if site.kind == "update" else None
        out = earlier(args, extra) if earlier else extra["original_block"](args)
        step = step_of(args["transformer_options"])
        whole = out["img"]
        first = step.context.shape[1] if kind == "single" and step.context is not None else 0
        end = first + step.grid[0] * step.grid[1]
        # Text comes before the picture's tokens, reference pictures after them.
        h = whole[:, first:end]
        before = None if given is None else given[:, first:end]
        new = apply(h, before, step)
        if new is h:
            return out
        return {**out, "img": torch.cat((whole[:, :first], new, whole[:, end:]), 1)}

    clone.set_model_patch_replace(block, "dit", *place)


def _counted(module: nn.Module) -> Any:
    """Wrap a module of ours, so that ComfyUI loads, counts and frees its memory."""
    from comfy.model_management import get_torch_device, unet_offload_device
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(module, load_device=get_torch_device(), offload_device=unet_offload_device())

"""Taps on ComfyUI's models: the one place that knows its patch points. Imports nothing of ComfyUI by itself.

A tapped ModelPatcher carries two wrappers that say, for each call of the denoiser, when and for whom it is (`Step`),
and one patch per tap at its site: an output_block_patch for `mid` (what reaches the first output block is what the
middle block returned, ControlNet's share included), a replacement of the block, chained to what was there before,
for a DiT's blocks, and for `eps` a wrapper of the denoiser. All are plain functions, so they survive every clone;
no module is hooked and no object replaced. What is laid down in `transformer_options` lives for one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import HapaxError
from ..core.sites import Site, select_site
from ..core.taps import Step, Tap

KEY = "hapax"
_STEP, _BEFORE, _PROMPTED, _EPS = "hapax_step", "hapax_before_mid", "hapax_prompted", "hapax_eps"
# A discrete schedule counts timesteps from 0 to 999, a flow from 0 to 1000, as the diffusers backend does.
_LAST, _WHOLE = 999.0, 1000.0


@dataclass(frozen=True)
class _Family:
    """How the denoisers of one class are built: the module lists of its blocks and the name that patches use."""

    double: str | None = None
    single: str | None = None
    packed: bool = False


@dataclass(frozen=True)
class Run:
    """What a sampling run was asked for: ComfyUI's guider, noise and latents `[B, C, H, W]`, sampler, sigmas, seed."""

    guider: Any
    noise: Tensor
    latent: Tensor
    sampler: Any
    sigmas: Tensor
    seed: int | None


_FAMILIES = {
    "UNetModel": _Family(),
    "MMDiT": _Family(double="joint_blocks"),
    "Flux": _Family(double="double_blocks", single="single_blocks", packed=True),
}


def family_of(denoiser: Any) -> str:
    """Return the class of the denoiser as the blocks' layout knows it.

    Raises:
        HapaxError: the blocks of the denoiser's class are unknown.
    """
    for kind in type(denoiser).__mro__:
        if kind.__name__ in _FAMILIES:
            return kind.__name__
    raise HapaxError(
        f"The model is a {type(denoiser).__name__}, whose blocks are unknown to Hapax; "
        "use SD1.x, SD2.x, SDXL, SD3 or Flux."
    )


def sites_of(model: Any) -> tuple[Site, ...]:
    """List the sites of a ModelPatcher, with the names and channels that the diffusers backend gives them.

    Raises:
        HapaxError: the model is none of those whose blocks are known.
    """
    denoiser = model.model.diffusion_model
    name = family_of(denoiser)
    if name == "UNetModel":
        mid = {} if denoiser.middle_block is None else {"mid": denoiser.model_channels * denoiser.channel_mult[-1]}
        widths = mid | {"eps": denoiser.out_channels}
    else:
        family = _FAMILIES[name]
        lists = {"double": family.double, "single": family.single}
        widths = {
            f"{block}.{i}": denoiser.hidden_size
            for block, attribute in lists.items()
            if attribute
            for i in range(len(getattr(denoiser, attribute)))
        } | {"eps": denoiser.out_channels}
    return tuple(Site(site, "output", width, "img") for site, width in widths.items())


def site_of(model: Any, site: str | Site) -> Site:
    """Find the site that is meant: a name (`mid`, `mid:update`, `double.9`), a Site to be checked, or `auto`.

    `auto` is the middle block of a UNet, and the middle one of a DiT's double blocks.

    Raises:
        HapaxError: the model has no such site, or other channels there.
    """
    sites = {each.name: each for each in sites_of(model)}
    if site == "auto":
        doubles = [name for name in sites if name.startswith("double.")]
        site = doubles[len(doubles) // 2] if doubles else "mid"
    return select_site(sites, site)


def grid_at(model: Any, site: Site, height: int, width: int) -> tuple[int, int]:
    """Return the token grid `(H, W)` of a site for a latent of `height` x `width`."""
    denoiser = model.model.diffusion_model
    family = _FAMILIES[family_of(denoiser)]
    if site.name == "mid":
        for _ in range(len(denoiser.channel_mult) - 1):
            height, width = _halved(height), _halved(width)
        return height, width
    if site.name == "eps" and not family.packed:
        return height, width
    return -(-height // denoiser.patch_size), -(-width // denoiser.patch_size)


def _halved(side: int) -> int:
    return (side + 1) // 2


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
    _wrap_once(clone, WrappersMP.OUTER_SAMPLE, mark_prompted)
    if modules:
        clone.set_additional_models(key or f"{KEY}.{uuid4()}", [_counted(module) for module in modules])
    apply = torch.compiler.disable(at(chosen, tap))
    if chosen.name == "mid":
        _tap_mid(clone, chosen, apply)
    elif chosen.name == "eps":
        clone.set_model_patch(apply, _EPS)
        if family_of(clone.model.diffusion_model) != "MMDiT":
            _wrap_once(clone, WrappersMP.DIFFUSION_MODEL, tap_eps)
    else:
        _tap_block(clone, chosen, apply)
    return clone


def _wrap_once(clone: Any, kind: str, wrapper: Callable) -> None:
    if wrapper not in clone.get_wrappers(kind, KEY):
        clone.add_wrapper_with_key(kind, KEY, wrapper)


def at(site: Site, tap: Tap) -> Callable[[Tensor, Tensor | None, Step], Tensor]:
    """Make `apply(h, before, step)`: what the tap makes of a block's output h, whose input was `before`."""

    def apply(h: Tensor, before: Tensor | None, step: Step) -> Tensor:
        seen = h if before is None else h - before
        edited = tap(seen, step)
        if edited is None or edited is seen:
            return h
        if edited.shape != seen.shape or edited.dtype != seen.dtype:
            got, gave = (f"{tuple(each.shape)} of {each.dtype}" for each in (seen, edited))
            raise HapaxError(f"A tap at {site} got {got} and returned {gave}; return shape and dtype as got.")
        # Added, not put in the update's place: where the tap changed nothing, adding zero is exact.
        return edited if before is None else h + (edited - seen)

    return apply


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
        step = replace(_step(options), grid=tuple(h.shape[2:]))
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
        step = _step(args["transformer_options"])
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


def tap_eps(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of the denoiser: hand its output to the taps at `eps`."""
    out = executor(*args, **kwargs)
    options = next((each for each in (*args, *kwargs.values()) if isinstance(each, dict) and _STEP in each), {})
    return _edited_eps(out, options, _FAMILIES[family_of(executor.class_obj)].packed)


def _edited_eps(out: Tensor, options: dict[str, Any], packed: bool) -> Tensor:
    taps = options.get("patches", {}).get(_EPS, ())
    for apply in taps:
        step = _step(options)
        h = pack(out) if packed else out
        edited = apply(h, None, step if packed else replace(step, grid=tuple(out.shape[2:])))
        if edited is not h:
            out = unpack(edited, out) if packed else edited
    return out


def pack(latent: Tensor) -> Tensor:
    """Lay a latent `[B, C, H, W]` out as Flux does: tokens `[B, T, 4 C]` of 2 x 2 cells, padded where odd.

    >>> pack(torch.zeros(1, 16, 4, 6)).shape
    torch.Size([1, 6, 64])
    """
    even = F.pad(latent, (0, latent.shape[3] % 2, 0, latent.shape[2] % 2))
    return F.pixel_unshuffle(even, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, like: Tensor) -> Tensor:
    """Undo `pack` for a latent of the shape of `like`."""
    height, width = like.shape[2:]
    grid = tokens.transpose(1, 2).unflatten(2, ((height + 1) // 2, (width + 1) // 2))
    return F.pixel_shuffle(grid, 2)[:, :, :height, :width]


def mark_prompted(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of a sampling run: note the prompt's conditionings where a guider has more than prompt and negative.

    Such guiders run them in an order of their own. Elsewhere their place tells: ComfyUI copies the areas of the
    prompt's conditionings to the negative ones, ids included.
    """
    guider = executor.class_obj
    if not guider.conds.keys() <= {"positive", "negative"}:
        prompted = frozenset(cond["uuid"] for cond in guider.conds["positive"])
        guider.model_options.setdefault("transformer_options", {})[_PROMPTED] = prompted
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
    """Wrapper of the model's call: lay the call's Step in its options, and see to `eps` where tap_eps can't."""
    base, options = executor.class_obj, {} if transformer_options is None else transformer_options
    options[_STEP] = _label(base, x, t, c_concat, c_crossattn, options)
    denoised = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    # ComfyUI doesn't run DIFFUSION_MODEL wrappers on SD3; its output is known from the flow, x - sigma v.
    if family_of(base.diffusion_model) == "MMDiT" and options.get("patches", {}).get(_EPS):
        sigma = t.view(-1, *[1] * (x.ndim - 1))
        v = (x - denoised) / sigma
        edited = _edited_eps(v, options, False)
        return denoised if edited is v else denoised - sigma * (edited - v)
    return denoised


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


def _step(options: dict[str, Any]) -> Step:
    if _STEP not in options:
        raise HapaxError(
            "The denoiser was called without ComfyUI's wrappers, so the step is unknown; "
            "take Hapax's nodes off the MODEL that goes into this node."
        )
    return options[_STEP]


def _counted(module: nn.Module) -> Any:
    """Wrap a module of ours, so that ComfyUI loads, counts and frees its memory."""
    from comfy.model_management import get_torch_device, unet_offload_device
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(module, load_device=get_torch_device(), offload_device=unet_offload_device())

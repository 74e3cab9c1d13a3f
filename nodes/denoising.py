"""A MODEL's denoiser, called under known prompts outside its samplers, but through all that is patched onto it.

Probing and training call it within a sampling run that samples nothing: so ComfyUI has loaded the model, put LoRAs
and other patches on, and encoded the prompts as for any sampler, sizes and pooled texts included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors

from .. import __version__
from ..core.backends.schedules import TrainingSchedule
from ..core.errors import HapaxError
from ..core.sites import Site
from ..core.taps import Step, Tap
from .comfy_sites import family_of, site_of, sites_of
from .comfy_taps import add_tap
from .fingerprint import patches_fingerprint
from .fitting import identity

# What a prompt may not bring along: a row of a batch has the whole picture to itself, at all times.
_PLACED = ("area", "mask", "control", "gligen", "hooks", "default", "concat_latent_image", "reference_latents")
# Training keeps activations for the way back; ComfyUI makes room for what sampling so many rows takes.
_ROOM = 4
_FLOW_STEPS = 1000

T = TypeVar("T")


def call_denoiser(
    model: Any,
    prompts: Sequence[str],
    conditionings: Sequence[list],
    shape: Sequence[int],
    rows: int,
    body: Callable[[ComfyDenoising], T],
    *,
    site: str | Site = "auto",
    train: bool = False,
) -> T:
    """Return `body(denoising)`, called where the denoiser of a MODEL is loaded and knows its prompts.

    Args:
        model: a MODEL; nothing of it changes.
        prompts, conditionings: U prompts, in words and encoded.
        shape: of one latent, [C, H, W].
        rows: the most that `body` will give to one call.
        body: gets the denoiser.
        site: where taps may be given to `ComfyDenoising.predict`.
        train: gradients will pass through.

    Raises:
        HapaxError: a conditioning has an area, a ControlNet or the like, or the prompts differ in size.
    """
    chosen, slot = site_of(model, site), _Slot()

    def within(guider: Any, options: dict[str, Any]) -> T:
        return body(ComfyDenoising(model, guider, options, chosen, slot, prompts, shape))

    # ComfyUI calls its nodes in inference mode; a model that is loaded in it can't be trained through.
    with torch.inference_mode(False), torch.no_grad():
        positive = [_plain(each) for each in conditionings]
        tapped = add_tap(_trainable(model) if train else model, chosen, slot.tap)
        made = _Within(within)
        noise = torch.zeros(rows * (_ROOM if train else 1), *shape)
        start = torch.ones(1)
        comfy.sample.sample_custom(
            tapped, noise, 1.0, made, start, positive, positive[:1], noise, disable_pbar=True, seed=0
        )
        return made.result


class ComfyDenoising:
    """What probing and training need of a model (`core.backends.denoiser.Denoising`), through ComfyUI."""

    def __init__(
        self,
        model: Any,
        guider: Any,
        options: dict[str, Any],
        site: Site,
        slot: _Slot,
        prompts: Sequence[str],
        shape: Sequence[int],
    ) -> None:
        self.model, self.base, self.site, self.slot = model, guider.inner_model, site, slot
        self.denoiser = self.base.diffusion_model
        self.options = options["transformer_options"]
        self.prompts, self.shape = tuple(prompts), torch.Size(shape)
        self.schedule = _schedule(self.base.model_sampling)
        self.rows = [_row(each["model_conds"]) for each in guider.conds["positive"][: len(self.prompts)]]
        self.device = guider.model_patcher.load_device
        first = self.rows[0]
        if any(row.keys() != first.keys() or not all(first[k].can_concat(row[k]) for k in row) for row in self.rows):
            raise HapaxError("The prompts differ in size; encode all of them with the same CLIP and the same nodes.")

    @property
    def context_width(self) -> int:
        """D of the text's hidden states, 0 without text."""
        text = self.rows[0].get("c_crossattn")
        return 0 if text is None else text.cond.shape[-1]

    @property
    def sites(self) -> Mapping[str, Site]:
        """The denoiser's sites by name."""
        return {site.name: site for site in sites_of(self.model)}

    def identity(self) -> dict[str, Any]:
        """What the MODEL is known by, LoRAs on it included."""
        known = identity(self.model)
        versions = {**known["versions"], "hapax": __version__, "torch": str(torch.__version__)}
        return {**known, "versions": versions, "patches": patches_fingerprint(self.model)}

    def predict(self, x: Tensor, timestep: Tensor, prompt: Tensor, taps: Mapping[Any, Tap] | None = None) -> Tensor:
        """Return the prediction for x_t `[B, C, H, W]` at training timesteps `[B]` under prompts number `[B]`.

        ComfyUI's models take a discrete schedule's noise on top of the whole picture, and return the clean picture.
        """
        sigma, (a, _) = self.schedule.sigma(timestep), self.schedule.scales(timestep)
        noisy = x if self.schedule.log_sigmas is None else x / a.view(-1, *[1] * (x.ndim - 1))
        given = {key: self._joined(key, prompt) for key in self.rows[0]}
        sigma = sigma.to(self.device)
        options = {**self.options, "cond_or_uncond": [0], "sigmas": sigma}
        with self.slot.holding(self._tap(taps)):
            clean = self.base.apply_model(noisy.to(self.device), sigma, **given, transformer_options=options)
        return self.schedule.target(x.to(self.device), clean.float(), timestep)

    def _tap(self, taps: Mapping[Any, Tap] | None) -> Tap | None:
        if not taps:
            return None
        assert [str(key) for key in taps] == [str(self.site)]
        return next(iter(taps.values()))

    def _joined(self, key: str, prompt: Tensor) -> Any:
        """One argument of the denoiser, with a row for each number of a prompt."""
        first, *others = (self.rows[u][key] for u in prompt.tolist())
        return first.concat(others)

    @contextmanager
    def frozen(self, *, checkpointing: bool = False) -> Iterator[None]:
        """Let gradients pass through the denoiser but reach none of its weights.

        Raises:
            HapaxError: checkpointing is asked for, which ComfyUI's models can't do from outside.
        """
        if checkpointing:
            raise HapaxError("ComfyUI's models can't compute activations again; train smaller parts of a batch.")
        _leave_inference_mode(self.denoiser)
        wanting = [p for p in self.denoiser.parameters() if p.requires_grad]
        # Flux's blocks write over what the way back needs.
        overwrites = family_of(self.denoiser) == "Flux"
        try:
            for p in wanting:
                p.requires_grad_(False)
            with _in_training(), allow_mutation_on_saved_tensors() if overwrites else nullcontext():
                yield
        finally:
            for p in wanting:
                p.requires_grad_(True)


class _Slot:
    """Where a call's tap is put, because ComfyUI wants to know of taps before a run begins."""

    def __init__(self) -> None:
        self.held: Tap | None = None

        # A plain function, which ComfyUI's clones share.
        def tap(h: Tensor, step: Step) -> Tensor | None:
            return None if self.held is None else self.held(h, step)

        self.tap = tap

    @contextmanager
    def holding(self, tap: Tap | None) -> Iterator[None]:
        """Hold a tap for a call."""
        self.held = tap
        try:
            yield
        finally:
            self.held = None


class _Within(comfy.samplers.Sampler):
    """A sampler that calls `body(guider, model_options)` and leaves the latent as it was."""

    def __init__(self, body: Callable[[Any, dict[str, Any]], Any]) -> None:
        self.body, self.result = body, None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Any = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Call the body."""
        self.result = self.body(model_wrap, extra_args["model_options"])
        return latent_image


def _plain(conditioning: list) -> list:
    """The one entry of a CONDITIONING that is a prompt and nothing else."""
    if len(conditioning) != 1:
        raise HapaxError(
            f"One of the prompts is a combination of {len(conditioning)}; give single prompts, one a picture."
        )
    (text, options), *_ = conditioning
    placed = [key for key in _PLACED if options.get(key) is not None and options[key] is not False]
    if options.get("start_percent", 0.0) > 0 or options.get("end_percent", 1.0) < 1:
        placed.append("start and end percent")
    if placed:
        raise HapaxError(f"A prompt has {', '.join(placed)} set; give plain prompts, as CLIP Text Encode makes them.")
    return [text, options]


def _row(conds: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's arguments of the denoiser for one picture, as tensors that gradients may meet."""
    row = {}
    for key, cond in conds.items():
        single = cond.process_cond(batch_size=1, area=None)
        row[key] = single._copy_with(single.cond.clone()) if isinstance(single.cond, Tensor) else single
    return row


def _schedule(sampling: Any) -> TrainingSchedule:
    table = getattr(sampling, "log_sigmas", None)
    if table is None:
        return TrainingSchedule(_FLOW_STEPS, None, "flow")
    v = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    return TrainingSchedule(len(table), table.detach().float().cpu().clone(), "v_prediction" if v else "epsilon")


def _trainable(model: Any) -> Any:
    """A clone through which gradients may pass.

    With ComfyUI's dynamic memory weights are where nobody else may rely on them, so that the model is loaded anew
    without it. In float16 gradients of so many pixels vanish.

    Raises:
        HapaxError: its loader didn't say how to load it anew.
    """
    if getattr(model, "is_dynamic", bool)():
        if model.cached_patcher_init is None:
            raise HapaxError(
                "This model's loader doesn't let it be loaded anew, which training needs with dynamic memory; use a "
                "loader of ComfyUI's own, or start ComfyUI with --disable-dynamic-vram."
            )
        clone = model.clone(disable_dynamic=True)
    else:
        clone = model.clone()
    if (getattr(model.model, "manual_cast_dtype", None) or model.model_dtype()) == torch.float16:
        short = comfy.model_management.should_use_bf16(clone.load_device)
        clone.set_model_compute_dtype(torch.bfloat16 if short else torch.float32)
    return clone


@contextmanager
def _in_training() -> Iterator[None]:
    """Let newer ComfyUI take the operations that have gradients; its faster ones have none."""
    before = getattr(comfy.model_management, "in_training", None)
    if before is None:
        yield
        return
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def _leave_inference_mode(module: nn.Module) -> None:
    """Put plain tensors in the place of weights that were loaded in inference mode: equal bits, one at a time."""
    for each in module.modules():
        for name, weight in each._parameters.items():
            # Other classes (quantised weights) are turned into plain tensors when they are used.
            if type(weight) is nn.Parameter and weight.is_inference():
                each._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)

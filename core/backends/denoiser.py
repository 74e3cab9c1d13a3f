"""Calls of a frozen denoiser outside its sampler: under known prompts, at chosen times, on given pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import HapaxError
from ..sites import Site
from .diffusers import DiffusersBackend, Taps
from .hooks import _CALLS, Rows
from .noise import is_flux
from .schedules import TrainingSchedule


class Denoising(Protocol):
    """What probing and training need of a model, whoever calls it: `Conditioned` for diffusers, ComfyUI has its own.

    Attributes:
        denoiser: its parameters are counted.
        prompts: U prompts; calls name them by number.
        schedule: noise levels, and what the denoiser predicts.
    """

    denoiser: Any
    prompts: tuple[str, ...]
    schedule: TrainingSchedule

    @property
    def shape(self) -> torch.Size:
        """Of one latent: what `predict` takes a batch of."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        ...

    @property
    def context_width(self) -> int:
        """D of the text's hidden states, 0 without text."""
        ...

    @property
    def sites(self) -> Mapping[str, Site]:
        """The denoiser's sites by name."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the model is known by: `architecture`, `model` (fingerprint), `versions`."""
        ...

    def predict(self, x: Tensor, timestep: Tensor, prompt: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the prediction; see `Conditioned.predict`."""
        ...

    def frozen(self, *, checkpointing: bool = False) -> AbstractContextManager[None]:
        """Let gradients pass through the denoiser but reach none of its weights; see `frozen`."""
        ...


class _Captured(Exception):
    """Ends a run of the pipeline once the denoiser's arguments are known."""


class Conditioned:
    """A frozen denoiser with the arguments that each of some prompts gives it.

    The arguments are read off the pipeline's own first call of its denoiser, so whatever a model is told beside
    the text (pooled texts, sizes, position ids, distilled guidance) is as it is when sampling.

    Args:
        backend: the pipeline; its denoiser's weights are not touched.
        prompts: U prompts; calls name them by number.
        guidance: of models that take it as an input, such as Flux; the pipeline's default if None.
        size: height and width in pixels and other options of the pipeline; the model's own by default.

    Raises:
        HapaxError: no prompts, or the pipeline refuses them.
    """

    def __init__(
        self, backend: DiffusersBackend, prompts: Sequence[str], *, guidance: float | None = None, **size: Any
    ) -> None:
        if not prompts:
            raise HapaxError("There are no prompts to denoise under; give one per picture.")
        self.backend, self.prompts, self.guidance = backend, tuple(prompts), guidance
        self.denoiser: Any = backend.denoiser
        self.call = _CALLS[type(self.denoiser).__name__]
        self.schedule = TrainingSchedule.of(backend.pipeline.scheduler)
        captured = [self._capture(prompt, size) for prompt in self.prompts]
        self._shape: torch.Size = captured[0].pop(self.call.x[1]).shape[1:]
        for arguments in captured[1:]:
            arguments.pop(self.call.x[1])
        self._arguments = _stacked(captured)

    @property
    def shape(self) -> torch.Size:
        """Of one latent, as the denoiser takes it."""
        return self._shape

    @property
    def sites(self) -> Mapping[str, Site]:
        """The denoiser's sites by name."""
        return self.backend.sites

    def identity(self) -> dict[str, Any]:
        """What the model is known by."""
        return self.backend.identity()

    def frozen(self, *, checkpointing: bool = False) -> AbstractContextManager[None]:
        """Let gradients pass through the denoiser but reach none of its weights; see `frozen`."""
        return frozen(self.denoiser, checkpointing=checkpointing)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    @property
    def context_width(self) -> int:
        """D of the text's hidden states, 0 without text."""
        context = self._arguments.get(self.call.context[1])
        return context.rows.shape[-1] if isinstance(context, _PerPrompt) else 0

    def _capture(self, prompt: str, size: dict[str, Any]) -> dict[str, Any]:
        held: dict[str, Any] = {}

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            held.update(kwargs)
            for index, name in (self.call.x, self.call.timestep, self.call.context):
                if index < len(args):
                    held[name] = args[index]
            raise _Captured

        handle = self.denoiser.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            # Distilled guidance is an input of the model; any other would put rows under the negative prompt in.
            distilled = is_flux(self.denoiser) or getattr(self.denoiser.config, "time_cond_proj_dim", None) is not None
            guidance = self.guidance if distilled else 1.0
            self.backend.sample(prompt, [0], steps=1, guidance=guidance, output="latent", **size)
        except _Captured:
            pass
        finally:
            handle.remove()
        held.pop(self.call.timestep[1], None)
        return held | {"return_dict": False}

    def predict(self, x: Tensor, timestep: Tensor, prompt: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the prediction for x_t `[B, ...]` at training timesteps `[B]` under prompts number `[B]`.

        Taps see the rows as under the prompt (cond) and numbered from 0. Computes in the denoiser's dtype, or
        in autocast's, and returns float32.
        """
        device, dtype = self.device, self.denoiser.dtype
        arguments = _picked(self._arguments, prompt.to(device))
        arguments[self.call.x[1]] = x.to(device, dtype)
        time = timestep.to(device, torch.float32) / self.call.time_unit
        arguments[self.call.timestep[1]] = time.to(dtype) if self.call.time_unit != 1 else time
        with self.backend.tapped(taps or {}, Rows.of(range(len(x)), guided=False)):
            return self.denoiser(**arguments)[0].float()


def denoising(model: DiffusersBackend | Denoising, prompts: Sequence[str], **size: Any) -> Denoising:
    """Make a backend's denoiser callable under `prompts`; what is so already is returned as it is."""
    return Conditioned(model, prompts, **size) if isinstance(model, DiffusersBackend) else model


class _PerPrompt:
    """A tensor argument that has a row per prompt."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows


def _stacked(captured: Sequence[Any]) -> Any:
    """Join the prompts' arguments: tensors of one row into `_PerPrompt`, dicts entry by entry, others as they are."""
    first = captured[0]
    if isinstance(first, Mapping):
        return {name: _stacked([each[name] for each in captured]) for name in first}
    if isinstance(first, Tensor) and first.ndim and len(first) == 1:
        return _PerPrompt(torch.cat(list(captured)).detach())
    return first


def _picked(arguments: Any, prompt: Tensor) -> Any:
    if isinstance(arguments, Mapping):
        return {name: _picked(value, prompt) for name, value in arguments.items()}
    return arguments.rows[prompt] if isinstance(arguments, _PerPrompt) else arguments


@contextmanager
def frozen(denoiser: nn.Module, *, checkpointing: bool = False) -> Iterator[None]:
    """Let gradients pass through a denoiser but reach none of its weights; leave it as it was found.

    On a CPU PyTorch's fused attention is slow backwards (60 % of a small UNet's step), so the plain one stands in.

    Args:
        denoiser: its weights get no gradients and its mode (train or eval) stays.
        checkpointing: compute activations again in the backward pass instead of keeping them.
    """
    wanted = {name: p.requires_grad for name, p in denoiser.named_parameters()}
    restore: list[Callable[[], object]] = [lambda: _require(denoiser, wanted)]
    try:
        denoiser.requires_grad_(False)
        if checkpointing:
            _start_checkpointing(denoiser, restore)
        if next(denoiser.parameters()).device.type == "cpu":
            _plain_attention(denoiser, restore)
        yield
    finally:
        for undo in restore:
            undo()


def _require(denoiser: nn.Module, wanted: dict[str, bool]) -> None:
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(wanted[name])


def _start_checkpointing(denoiser: Any, restore: list[Callable[[], object]]) -> None:
    if not getattr(denoiser, "is_gradient_checkpointing", False):
        denoiser.enable_gradient_checkpointing()
        restore.append(denoiser.disable_gradient_checkpointing)


def _plain_attention(denoiser: Any, restore: list[Callable[[], object]]) -> None:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    held = dict(getattr(denoiser, "attn_processors", {}))
    if held and all(type(processor) is AttnProcessor2_0 for processor in held.values()):
        denoiser.set_attn_processor(AttnProcessor())
        restore.append(lambda: denoiser.set_attn_processor(held))

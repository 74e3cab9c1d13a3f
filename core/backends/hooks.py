"""Module hooks that call taps while a diffusers denoiser runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..asymmetric import Paths, mixed
from ..errors import HapaxError
from ..sites import Site, site_module
from ..taps import Step, Tap, applied
from .schedules import TrainingSchedule

# Each block class of diffusers returns its streams in an order of its own; this is where the picture's is.
_IMAGE_STREAM = {"JointTransformerBlock": 1, "FluxTransformerBlock": 1, "FluxSingleTransformerBlock": 1}


@dataclass(frozen=True)
class _Call:
    """Where a denoiser's forward takes its arguments, and how many training timesteps its unit of time is."""

    x: tuple[int, str]
    timestep: tuple[int, str]
    context: tuple[int, str]
    time_unit: float


_CALLS = {
    "UNet2DConditionModel": _Call((0, "sample"), (1, "timestep"), (2, "encoder_hidden_states"), 1),
    "SD3Transformer2DModel": _Call((0, "hidden_states"), (3, "timestep"), (1, "encoder_hidden_states"), 1),
    "FluxTransformer2DModel": _Call((0, "hidden_states"), (3, "timestep"), (1, "encoder_hidden_states"), 1000),
}


@dataclass(frozen=True)
class Rows:
    """Labels of the rows of each denoiser call: `sample` `[B]` int64 and `cond` `[B]` bool, on the CPU."""

    sample: Tensor
    cond: Tensor

    @classmethod
    def of(cls, samples: Sequence[int], *, guided: bool) -> Rows:
        """Label a batch as diffusers lays it out: with guidance all rows twice, the negative prompt's first.

        >>> Rows.of([7, 8], guided=True).sample, Rows.of([7, 8], guided=True).cond
        (tensor([7, 8, 7, 8]), tensor([False, False,  True,  True]))
        """
        halves = [False, True] if guided else [True]
        cond = [half for half in halves for _ in samples]
        return cls(torch.tensor(list(samples) * len(halves), dtype=torch.long), torch.tensor(cond))


@contextmanager
def tapped(
    denoiser: nn.Module,
    taps: Mapping[Site, Tap],
    schedule: TrainingSchedule,
    rows: Rows,
    remaining: Callable[[float], float] | None = None,
) -> Iterator[None]:
    """Call `taps` at their sites in each forward pass within the block; the hooks are gone when it is left.

    Args:
        denoiser: a denoiser that diffusers knows.
        taps: one at each site.
        schedule: what it was trained on.
        rows: labels of each call's rows.
        remaining: in a sampler's run, the share of the noise-to-picture ratio that its step from a timestep leaves,
            which asymmetric edits need; None elsewhere.

    Raises:
        HapaxError: in a call, when its batch doesn't have the rows named.
    """
    hooks = _Hooks(denoiser, schedule, rows, remaining)
    handles = []
    try:
        handles.append(denoiser.register_forward_pre_hook(hooks.enter, with_kwargs=True))
        for site, tap in taps.items():
            module = site_module(denoiser, site)
            handles.append(module.register_forward_hook(hooks.at(site, tap), with_kwargs=True))
        # After the taps on the denoiser's own output.
        handles.append(denoiser.register_forward_hook(hooks.leave, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Hooks:
    """The hooks of one denoiser: `enter` labels a call, those made by `at` hand the label on, `leave` ends the call."""

    def __init__(
        self, denoiser: Any, schedule: TrainingSchedule, rows: Rows, remaining: Callable[[float], float] | None
    ) -> None:
        self.call = _CALLS[type(denoiser).__name__]
        self.patch = getattr(denoiser.config, "patch_size", 1)
        self.schedule = schedule
        self.rows = rows
        self.remaining = remaining
        self.plain = False
        self.step: Step | None = None

    def enter(self, denoiser: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the denoiser: label the call that begins."""
        x, count = _argument(args, kwargs, self.call.x), len(self.rows.sample)
        if len(x) != count:
            raise HapaxError(
                f"{type(denoiser).__name__} was called with {len(x)} rows, but {count} were announced; "
                "leave out options that add calls or rows, such as layer-skipping guidance."
            )
        timestep = torch.as_tensor(_argument(args, kwargs, self.call.timestep)).detach().float().cpu()
        timestep = (timestep.flatten() * self.call.time_unit).expand(count)
        self.step = Step(
            sigma=self.schedule.sigma(timestep),
            timestep=timestep,
            progress=self.schedule.progress(timestep),
            cond=self.rows.cond,
            sample=self.rows.sample,
            grid=self._grid(x, kwargs),
            x=x,
            context=_argument(args, kwargs, self.call.context),
            paths=None if self.remaining is None else Paths(self.plain),
        )

    def _grid(self, x: Tensor, kwargs: dict[str, Any]) -> tuple[int, int]:
        """Return the token grid of the denoiser's input."""
        if x.ndim == 4:
            return x.shape[2] // self.patch, x.shape[3] // self.patch
        # Flux packs its input; the ids of its tokens are (0, row, column), in row-major order.
        _, row, column = kwargs["img_ids"].reshape(-1, 3)[-1].tolist()
        return int(row) + 1, int(column) + 1

    def at(self, site: Site, tap: Tap) -> Callable[..., Any]:
        """Make the forward hook of a site's module."""

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            assert self.step is not None
            stream = _stream(module, site, output)
            whole = output if stream is None else output[stream]
            before = _argument(args, kwargs, (0, "hidden_states")) if site.kind == "update" else None
            grid = tuple(whole.shape[2:]) if whole.ndim == 4 else self.step.grid
            new = applied(tap, site, whole, before, replace(self.step, grid=grid))
            if new is whole:
                return None
            return new if stream is None else (*output[:stream], new, *output[stream + 1 :])

        return hook

    def leave(self, denoiser: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Forward hook of the denoiser: where an asymmetric edit acted, evaluate again without, and mix the two."""
        assert self.step is not None
        if self.remaining is None or self.step.paths is None or not self.step.paths.steered:
            return None
        remaining = self.remaining(float(self.step.timestep[0]))
        self.plain = True
        try:
            plain = denoiser(*args, **kwargs)
        finally:
            self.plain = False
        return (mixed(output[0], plain[0], remaining), *output[1:])


def _argument(args: tuple, kwargs: dict[str, Any], place: tuple[int, str]) -> Any:
    index, name = place
    return kwargs[name] if name in kwargs else args[index] if index < len(args) else None


def _stream(module: nn.Module, site: Site, output: Any) -> int | None:
    """Return which entry of a module's output is the picture's; None where the output is one tensor."""
    if site.name == "mid":
        return None
    name = type(module).__name__
    if site.name != "eps" and name not in _IMAGE_STREAM:
        raise HapaxError(f"{site} is a {name}, whose outputs are unknown here; known: {', '.join(_IMAGE_STREAM)}.")
    if not isinstance(output, tuple):
        raise HapaxError(f"{name} returned a {type(output).__name__}, not a tuple; call it with return_dict=False.")
    return 0 if site.name == "eps" else _IMAGE_STREAM[name]

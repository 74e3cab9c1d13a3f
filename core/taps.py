"""Taps: what is done to an activation at a site, and the labels that say when and for whom that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .asymmetric import Paths
from .errors import HapaxError
from .sites import Site


@dataclass(frozen=True)
class Step:
    """When and for whom a site was reached: one entry per row of the batch, in the batch's order.

    The labels are CPU tensors, so that a tap decides in Python without stopping the accelerator; `x` and
    `context` are the denoiser's own. Rows come in any order, the halves of guidance in one call or two.

    Attributes:
        sigma: `[B]` float32; noise level: sqrt((1 - abar) / abar) for discrete models, the flow's time in
            [0, 1] for SD3 and Flux.
        timestep: `[B]` float32; the training schedule's timestep, 0 .. num_train_timesteps.
        progress: `[B]` float32 along the training schedule: 0 is pure noise, 1 a clean picture. Known from
            the timestep, so the same whichever sampler and number of steps.
        cond: `[B]` bool; True for rows denoised under the prompt, False under the negative or empty prompt.
        sample: `[B]` int64; index of the row's sample in the caller's list, whichever batch it landed in.
        grid: `(H, W)` of the tokens at this site, row by row from the top.
        x: `[B, ...]` the denoiser's input, as it received it.
        context: `[B, L, D]` the text's hidden states that the denoiser received, or None.
        paths: which evaluation of a sampler's step this is, for asymmetric edits; None outside of a sampler.
    """

    sigma: Tensor
    timestep: Tensor
    progress: Tensor
    cond: Tensor
    sample: Tensor
    grid: tuple[int, int]
    x: Tensor
    context: Tensor | None
    paths: Paths | None = None


class Tap(Protocol):
    """What is done at a site: a recorder returns None, an edit returns the activations to go on with."""

    def __call__(self, h: Tensor, step: Step) -> Tensor | None:
        """Take `h` `[B, C, H, W]` or `[B, T, C]`, unchanged in place; return None or what replaces it."""
        ...


def to_tokens(h: Tensor) -> Tensor:
    """View activations `[B, C, H, W]` or `[B, T, C]` as tokens `[B, T, C]`, row by row from the top.

    >>> to_tokens(torch.zeros(2, 8, 3, 5)).shape
    torch.Size([2, 15, 8])
    """
    return h.flatten(2).transpose(1, 2) if h.ndim == 4 else h


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """Give tokens `[B, T, C]` the shape, dtype and memory format of `like`; the inverse of `to_tokens`.

    The memory format is kept because later kernels may round differently on another one.
    """
    grid = tokens.transpose(1, 2).unflatten(2, like.shape[2:]) if like.ndim == 4 else tokens
    return torch.empty_like(like).copy_(grid)


def compose(taps: Sequence[Tap]) -> Tap:
    """Chain taps in order: each sees what those before it made of the activations.

    >>> twice, step = compose([lambda h, step: 2 * h, lambda h, step: None]), None
    >>> twice(torch.ones(1), step)
    tensor([2.])
    """

    def chain(h: Tensor, step: Step) -> Tensor:
        for tap in taps:
            edited = tap(h, step)
            h = h if edited is None else edited
        return h

    return chain


def applied(tap: Tap, site: Site, whole: Tensor, before: Tensor | None, step: Step) -> Tensor:
    """What a tap makes of a block's output; `whole` itself where it changes nothing.

    Args:
        tap: what is done.
        site: where; its kind says whether `before` is given.
        whole: `[B, C, H, W]` or `[B, T, C]`, the output.
        before: like `whole`, the block's input, at sites of kind `update`: the tap gets the difference.
        step: when and for whom.

    Raises:
        HapaxError: the tap returns another shape or dtype than it got.

    >>> block, ones = Site("mid", "update", 1, "img"), torch.ones(1, 1, 1)
    >>> applied(lambda h, step: 2 * h, block, whole=3 * ones, before=ones, step=None)
    tensor([[[5.]]])
    """
    h = whole if before is None else whole - before
    edited = tap(h, step)
    if edited is None or edited is h:
        return whole
    if edited.shape != h.shape or edited.dtype != h.dtype:
        got, gave = (f"{tuple(each.shape)} of {each.dtype}" for each in (h, edited))
        raise HapaxError(f"A tap at {site} got {got} and returned {gave}; return shape and dtype as got.")
    # Added, not put in the update's place: where the tap changed nothing, adding zero is exact.
    return edited if before is None else whole + (edited - h)


@dataclass
class _Record:
    """What is held of one sample and half; entry i belongs to target i."""

    size: int
    distance: Tensor
    progress: Tensor
    tokens: list[Tensor]


class Recorder:
    """A tap that keeps, per sample and target, the tokens of the call nearest to that progress.

    Of equally near calls the first is kept, so samplers that call twice at one noise level (Heun) do no harm.
    With fewer calls than targets neighbouring targets hold the same call; `take` tells the progress of each.
    A sample's calls with a smaller token grid than its largest (ComfyUI's area prompts) are left out.

    Args:
        progress_targets: S values in [0, 1].
        positions: P indices into the row-major token grid, or None for all tokens.
        cond_only: leave out the rows under the negative prompt.
        dtype: what the tokens are kept in, on the CPU. The default, float32, holds whatever a bfloat16 or
            float16 model computes without loss.

    Raises:
        HapaxError: in a call, when tokens to be kept aren't finite, or when a position lies outside the grid.
    """

    def __init__(
        self,
        progress_targets: Sequence[float] | Tensor,
        positions: Sequence[int] | Tensor | None = None,
        cond_only: bool = True,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.targets = torch.as_tensor(progress_targets, dtype=torch.float32).flatten()
        self.positions = None if positions is None else torch.as_tensor(positions, dtype=torch.long).flatten()
        self.cond_only = cond_only
        self.dtype = dtype
        self._records: dict[tuple[int, bool], _Record] = {}
        if not len(self.targets) or not bool(((self.targets >= 0) & (self.targets <= 1)).all()):
            raise HapaxError(f"progress_targets is {progress_targets}; give at least one value, all in [0, 1].")
        if self.positions is None:
            return
        if not len(self.positions) or int(self.positions.min()) < 0:
            raise HapaxError(f"positions is {positions}; give at least one index, none negative, or None for all.")
        self._furthest = int(self.positions.max())

    @property
    def samples(self) -> list[int]:
        """The samples held, in ascending order."""
        return sorted({sample for sample, _ in self._records})

    def take(self, sample: int, *, cond: bool = True) -> tuple[Tensor, Tensor]:
        """Hand out tokens `[S, P, C]` and progress `[S]` of a sample, and forget them."""
        record = self._records.pop((sample, cond), None)
        if record is None:
            half = "under the prompt" if cond else "under the negative prompt"
            raise HapaxError(f"Nothing was recorded for sample {sample} {half}; there is {self.samples}.")
        return torch.stack(record.tokens), record.progress

    def clear(self) -> None:
        """Forget everything; due between two runs when not all samples of the first were taken."""
        self._records.clear()

    def __call__(self, h: Tensor, step: Step) -> None:
        """Keep what is nearer to a target than all before; see `Tap`."""
        tokens = to_tokens(h)
        rows, claims = [], []
        for row, (sample, cond) in enumerate(zip(step.sample.tolist(), step.cond.tolist(), strict=True)):
            if cond or not self.cond_only:
                record = self._record((sample, cond), tokens.shape[1])
                slots = self._claim(record, tokens.shape[1], step.progress[row])
                if slots:
                    rows.append(row)
                    claims.append((record, slots))
        if not rows:
            return
        for row, (record, slots), picked in zip(rows, claims, self._pick(tokens, rows), strict=True):
            if not bool(torch.isfinite(picked).all()):
                raise HapaxError(_not_finite(h, step, row, self.dtype))
            for slot in slots:
                record.tokens[slot] = picked

    def _record(self, key: tuple[int, bool], size: int) -> _Record:
        """Find the record of a sample and half; a larger grid than before starts it anew."""
        record = self._records.get(key)
        if record is None or size > record.size:
            far = torch.full_like(self.targets, torch.inf)
            record = _Record(size, far, far.clone(), [torch.empty(0)] * len(far))
            self._records[key] = record
        return record

    def _claim(self, record: _Record, size: int, progress: Tensor) -> list[int]:
        """Mark and return the targets to which `progress` is nearer than all before."""
        distance = (self.targets - progress).abs()
        nearer = distance < record.distance
        if size < record.size or not bool(nearer.any()):
            return []
        record.distance = torch.where(nearer, distance, record.distance)
        record.progress = torch.where(nearer, progress, record.progress)
        return nearer.nonzero().flatten().tolist()

    def _pick(self, tokens: Tensor, rows: list[int]) -> Tensor:
        """Copy the tokens of `rows` at the positions to the CPU: `[R, P, C]`."""
        index = torch.tensor(rows, device=tokens.device)
        if self.positions is None:
            return tokens[index].to("cpu", self.dtype)
        if self._furthest >= tokens.shape[1]:
            raise HapaxError(
                f"Position {self._furthest} lies outside the site's {tokens.shape[1]} tokens; "
                "choose positions below that number, or make larger pictures."
            )
        return tokens[index[:, None], self.positions.to(tokens.device)].to("cpu", self.dtype)


def _not_finite(h: Tensor, step: Step, row: int, kept: torch.dtype) -> str:
    return (
        f"The activations of sample {int(step.sample[row])} at progress {float(step.progress[row]):.3f} "
        f"are not finite (computed in {h.dtype}, kept in {kept}); run the model in bfloat16 or float32, "
        "and keep them in float32."
    )

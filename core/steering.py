"""Edits: taps that add a direction or change SAE latents, within a window, on chosen rows, through a mask.

Steering representations is our extension: RAIGen (arXiv 2602.06806) amplifies by rewriting prompts only. Here
h' = h + m(progress) * strength * change, and h' = h + W_dec (z' - z) for the latents of an SAE. All can be asymmetric,
as in Asyrp (arXiv 2210.10960); `asymmetric.py` says how that is read here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .asymmetric import acts
from .errors import HapaxError
from .taps import Step, from_tokens, to_tokens

if TYPE_CHECKING:
    from .sae.model import MatryoshkaSAE

# Labels are float32, in which 0.6 lies above 0.6; progress itself comes in steps of about 1/1000.
_ROUNDING = 1e-6

Profile = Callable[[float], float] | Sequence[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Scope:
    """When, for whom and where an edit applies; shared by all edits.

    Attributes:
        start, end: window of progress, both ends included; 0 is pure noise, 1 a clean picture.
        rows: `cond` (rows under the prompt), `uncond` (under the negative prompt) or `both`.
        mask: `[H, W]` factor per place over the whole picture, resampled to the site's token grid; None is 1.
        norm_limit: f >= 1 keeps each token's L2 norm within [1/f, f] of what it was (1: equal); None doesn't.
        profile: factor m over progress: a function, or a table of (progress, factor) pairs in ascending
            order, linear between them and flat beyond its ends; None is 1.
        asymmetric: steer the picture that a step predicts and not its direction to x_t. The denoiser runs twice in
            steps that are steered, and equal strengths go further, the shorter the steps the more.

    >>> Scope(start=0.0, end=0.5, profile=[(0.0, 1.0), (0.5, 0.0)]).factor(0.25)
    0.5
    """

    start: float = 0.0
    end: float = 1.0
    rows: Literal["cond", "uncond", "both"] = "cond"
    mask: Tensor | None = None
    norm_limit: float | None = None
    profile: Profile | None = None
    asymmetric: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise HapaxError(f"The window is {self.start} to {self.end}; give 0 <= start <= end <= 1.")
        if self.rows not in ("cond", "uncond", "both"):
            raise HapaxError(f"rows is {self.rows!r}; give 'cond', 'uncond' or 'both'.")
        if self.norm_limit is not None and not self.norm_limit >= 1:
            raise HapaxError(f"norm_limit is {self.norm_limit}; give a factor of at least 1, or None for no limit.")
        if self.mask is not None and (self.mask.ndim != 2 or not bool(torch.isfinite(self.mask).all())):
            raise HapaxError(f"The mask has shape {tuple(self.mask.shape)}; give finite numbers of shape [H, W].")
        if self.profile is not None and not callable(self.profile):
            _check_table(self.profile)

    def factor(self, progress: float) -> float:
        """Return m(progress), 0 outside the window."""
        if not self.start - _ROUNDING <= progress <= self.end + _ROUNDING:
            return 0.0
        if self.profile is None:
            return 1.0
        if callable(self.profile):
            return float(self.profile(progress))
        return _interpolate(self.profile, progress)

    def factors(self, step: Step) -> Tensor:
        """Return the factor of each row, `[B]` float32 on the CPU."""
        labels = zip(step.progress.tolist(), step.cond.tolist(), strict=True)
        factors = [self.factor(progress) if self._applies(cond) else 0.0 for progress, cond in labels]
        return torch.tensor(factors, dtype=torch.float32)

    def token_mask(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """Resample the mask to `grid` (bilinear, antialiased): `[T, 1]` float32."""
        if self.mask is None:
            return None
        whole = self.mask.to(device, torch.float32)[None, None]
        return F.interpolate(whole, size=grid, mode="bilinear", antialias=True).reshape(-1, 1)

    def _applies(self, cond: bool) -> bool:
        return self.rows == "both" or cond == (self.rows == "cond")


def _check_table(table: Sequence[tuple[float, float]]) -> None:
    places = [place for place, _ in table]
    finite = all(math.isfinite(value) for pair in table for value in pair)
    if not places or places != sorted(set(places)) or not finite:
        raise HapaxError(f"The profile is {table}; give finite (progress, factor) pairs in ascending order.")


def _interpolate(table: Sequence[tuple[float, float]], progress: float) -> float:
    if progress <= table[0][0]:
        return float(table[0][1])
    for (left, low), (right, high) in pairwise(table):
        if progress <= right:
            return low + (high - low) * (progress - left) / (right - left)
    return float(table[-1][1])


class Edit(ABC):
    """A tap that adds m * strength * change to the rows in scope and returns all others bit-equal.

    Computes in float32 and returns h's dtype. Where nothing is to be changed it returns `h` itself.
    A subclass defines `change`.

    Args:
        channels: C of the sites that it fits.
        strength: 0 is an exact no-op; the unit is the subclass'.
        scope: when, for whom and where.
    """

    def __init__(self, channels: int, strength: float, scope: Scope | None = None) -> None:
        if not math.isfinite(strength):
            raise HapaxError(f"strength is {strength}; give a finite number.")
        self.channels = channels
        self.strength = strength
        self.scope = scope or Scope()

    @abstractmethod
    def change(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return what is added to tokens `x` `[R, T, C]` at `weight` `[R, 1, 1]` = m * strength.

        It broadcasts to x's shape and is 0 where the weight is.
        """

    def __call__(self, h: Tensor, step: Step) -> Tensor:
        """Edit `h`; see `Tap`."""
        weights = self.strength * self.scope.factors(step)
        rows = weights.nonzero().flatten()
        if not len(rows) or (self.scope.asymmetric and not acts(step.paths)):
            return h
        tokens, index = to_tokens(h), rows.to(h.device)
        if tokens.shape[-1] != self.channels:
            raise HapaxError(
                f"The edit has {self.channels} channels but the site has {tokens.shape[-1]}; "
                "use it at the site, and with the model, that it was made for."
            )
        x = tokens[index].float()
        change = self.change(x, weights[rows, None, None].to(h.device))
        mask = self.scope.token_mask(step.grid, h.device)
        edited = self._limited(x, x + (change if mask is None else mask * change))
        return from_tokens(tokens.index_copy(0, index, edited.to(h.dtype)), h)

    def _limited(self, x: Tensor, edited: Tensor) -> Tensor:
        limit = self.scope.norm_limit
        if limit is None:
            return edited
        before, after = x.norm(dim=-1, keepdim=True), edited.norm(dim=-1, keepdim=True)
        bounded = after.clamp(before / limit, before * limit)
        # A token that is zero after the edit stays zero, and an unchanged one is scaled by exactly 1.
        return edited * torch.where(after > 0, bounded / after, torch.ones_like(after))


class AddDirection(Edit):
    """Adds strength * scale * vector to each token.

    Args:
        vector: `[C]`, of unit norm by convention.
        scale: the direction's natural size in units of h; strength 1 pushes by as much.
    """

    def __init__(
        self, vector: Tensor, *, scale: float = 1.0, strength: float = 1.0, scope: Scope | None = None
    ) -> None:
        if vector.ndim != 1 or not bool(torch.isfinite(vector).all()) or not math.isfinite(scale):
            found = f"shape {tuple(vector.shape)} and scale {scale}"
            raise HapaxError(f"The direction has {found}; give a finite vector of shape [C] and a finite scale.")
        super().__init__(len(vector), strength, scope)
        self.offset = scale * vector.detach().float()

    def change(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return weight * scale * vector."""
        return weight * self.offset.to(x.device)


class SteerFeatures(Edit):
    """Changes some latents of an SAE; what the SAE doesn't reconstruct stays: h' = h + W_dec (z' - z).

    With w = m * strength and reference level a the latents become, by `mode`:

    - `add`: z' = z + w a. Pushes along the decoder rows wherever the mask allows, whether or not they fire.
    - `scale`: z' = max(1 + w, 0) z. Amplifies where they fire; strength -1 suppresses them.
    - `set`: z' = z + w (a - z). Strength 1 sets them to the reference level.

    Args:
        sae: the autoencoder of the site; only the rows of these latents are copied, to each h's device.
        latents: indices of the latents, R of them.
        reference: a, the level that counts as strong (a high quantile of the natural activations); one
            number or one per latent; `scale` doesn't use it.
    """

    MODES = ("add", "scale", "set")

    def __init__(
        self,
        sae: MatryoshkaSAE,
        latents: Sequence[int] | Tensor,
        *,
        mode: Literal["add", "scale", "set"] = "add",
        reference: float | Sequence[float] | Tensor = 1.0,
        strength: float = 1.0,
        scope: Scope | None = None,
    ) -> None:
        super().__init__(sae.d_in, strength, scope)
        self.mode = mode
        self.latents = torch.as_tensor(latents, dtype=torch.long).flatten()
        self.reference = torch.as_tensor(reference, dtype=torch.float32).detach().flatten()
        if mode not in self.MODES:
            raise HapaxError(f"mode is {mode!r}; give one of {', '.join(self.MODES)}.")
        if not len(self.latents) or not 0 <= int(self.latents.min()) <= int(self.latents.max()) < sae.d_sae:
            raise HapaxError(f"latents is {latents}; give indices of the SAE's, from 0 to {sae.d_sae - 1}.")
        if len(self.reference) not in (1, len(self.latents)):
            raise HapaxError(
                f"There are {len(self.reference)} reference levels for {len(self.latents)} latents; "
                "give one for all or one for each."
            )
        self._parts = {torch.device("cpu"): sae.subset(self.latents)}

    def change(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return W_dec (z' - z)."""
        part, reference = self._part(x.device), self.reference.to(x.device)
        if self.mode == "add":
            dz = (weight * reference).expand(-1, -1, len(self.latents))
        else:
            z = part.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            dz = weight.clamp(min=-1) * z if self.mode == "scale" else weight * (reference - z)
        return dz @ part.W_dec

    def _part(self, device: torch.device) -> MatryoshkaSAE:
        """The rows on a device. Kept one a device, because several may call at once."""
        if device not in self._parts:
            self._parts[device] = deepcopy(self._parts[torch.device("cpu")]).to(device)
        return self._parts[device]

"""A feature as the model shows it by itself: which latents, at which steps, at which places; and pushing towards it.

One push for all steps and places goes where the feature never goes, and costs quality before it brings the feature.
Steering is an extension of RAIGen (arXiv 2602.06806), which amplifies by rewriting prompts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HapaxError
from .sae import MatryoshkaSAE
from .steering import Edit, Scope
from .taps import Step

LATENTS = 64
# More pictures don't make a mean better that is moved by a few standard errors at most.
SHOWN, OTHERS = 64, 128


@dataclass(frozen=True, eq=False)
class Pattern:
    """Mean activations over the pictures that show a feature and over those that don't, S steps, R latents.

    Attributes:
        latents: [R] those that differ most.
        shown, others: [S, H, W, R] on an (H, W) grid of places, spread evenly over the picture.
        progress: [S] ascending, of the steps.
    """

    latents: Tensor
    shown: Tensor
    others: Tensor
    progress: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, sae: MatryoshkaSAE, tokens: Tensor, shown: Tensor, progress: Sequence[float], grid: tuple[int, int]
    ) -> Pattern:
        """From recorded pictures.

        Args:
            sae: the autoencoder of the site.
            tokens: [N, S, P, C]; the P = H * W places row by row.
            shown: [N] bool, which pictures show the feature.
            progress: S values.
            grid: (H, W).

        Raises:
            HapaxError: all pictures show it or none does, or shapes that don't belong together.
        """
        sides = [shown.nonzero().flatten(), (~shown).nonzero().flatten()]
        if not all(len(rows) for rows in sides):
            raise HapaxError(f"{len(sides[0])} of {len(shown)} pictures show the feature; some must and some must not")
        if tokens.shape[:3] != (len(shown), len(progress), grid[0] * grid[1]):
            raise HapaxError(
                f"tokens have shape {tuple(tokens.shape)}; expected {len(shown)} pictures, {len(progress)} steps and "
                f"{grid[0]} x {grid[1]} places"
            )
        on, off = (
            _mean(sae, tokens, rows[:: max(1, len(rows) // most)])
            for rows, most in zip(sides, (SHOWN, OTHERS), strict=True)
        )
        latents = (on - off).abs().amax((0, 1)).topk(min(LATENTS, sae.d_sae)).indices.sort().values
        on, off = (side[..., latents].unflatten(1, grid) for side in (on, off))
        return cls(latents, on, off, torch.tensor(progress, dtype=torch.float32))

    def reversed(self) -> Pattern:
        """The pattern of not showing the feature: pushing towards it suppresses."""
        return replace(self, shown=self.others, others=self.shown)

    def at(self, progress: float, grid: tuple[int, int]) -> Tensor:
        """What the latents are at a step and a token grid where the feature shows: [T, R], interpolated linearly."""
        return self._read(self.shown, progress, grid)

    def change_at(self, progress: float, grid: tuple[int, int]) -> Tensor:
        """By how much they differ there from where it doesn't show: [T, R]."""
        return self._read(self.shown - self.others, progress, grid)

    def _read(self, values: Tensor, progress: float, grid: tuple[int, int]) -> Tensor:
        return _resized(_between(values, self.progress, progress), grid)


class _ByStep(ABC):
    """A tap that makes the edit for each step as it comes.

    Args:
        sae: the autoencoder of the site; only the pattern's latents are copied.
        pattern: the feature's, or its `reversed`.
        strength: 0 is an exact no-op.
        scope: when, for whom and where.
    """

    def __init__(
        self, sae: MatryoshkaSAE, pattern: Pattern, *, strength: float = 1.0, scope: Scope | None = None
    ) -> None:
        self.part, self.pattern = sae.subset(pattern.latents), pattern
        self.strength, self.scope = strength, scope or Scope()

    def __call__(self, h: Tensor, step: Step) -> Tensor:
        """Edit `h`; rows of one call may be at different steps."""
        for progress in dict.fromkeys(step.progress.tolist()):
            h = _AtOneStep(self, progress, step.grid)(h, step)
        return h

    @abstractmethod
    def latents(self, x: Tensor, progress: float, grid: tuple[int, int]) -> Tensor:
        """What is added to the latents at weight 1, [T, R] or [B, T, R], for tokens x [B, T, C]."""


class AddPattern(_ByStep):
    """Adds to the latents what they differ by where the feature shows: z' = z + w (a - b).

    a and b are their means with and without the feature at that step and place; w = m * strength.
    """

    def latents(self, x: Tensor, progress: float, grid: tuple[int, int]) -> Tensor:
        """Return a - b."""
        return self.pattern.change_at(progress, grid)


class Approach(_ByStep):
    """Brings a pattern's latents nearer to what they are where the feature shows: z' = z + w (a - z).

    a is known for the step and the place; w = m * strength. What the autoencoder doesn't reconstruct stays, and
    so do all other latents. A strength of 1 sets them to a; above that they overshoot, and because the next steps see
    what came of it, the push ends by itself as the feature shows.
    """

    def latents(self, x: Tensor, progress: float, grid: tuple[int, int]) -> Tensor:
        """Return a - z."""
        return self.pattern.at(progress, grid).to(x.device) - self.part.encode(x)


class _AtOneStep(Edit):
    """The part of a `_ByStep` for rows at one progress."""

    def __init__(self, whole: _ByStep, progress: float, grid: tuple[int, int]) -> None:
        scope = whole.scope
        only = replace(scope, start=0.0, end=1.0, profile=lambda p: scope.factor(p) if p == progress else 0.0)
        super().__init__(whole.part.d_in, whole.strength, only)
        self.whole, self.progress, self.grid = whole, progress, grid

    def change(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the decoded change of the latents times the weight."""
        part = self.whole.part.to(x.device)
        return weight * (self.whole.latents(x, self.progress, self.grid).to(x.device) @ part.W_dec)


def _mean(sae: MatryoshkaSAE, tokens: Tensor, rows: Tensor) -> Tensor:
    """Mean activations [S, P, L] of some pictures, one picture at a time: all latents of all would not fit."""
    total = torch.zeros(*tokens.shape[1:3], sae.d_sae)
    for row in rows.tolist():
        total += sae.encode(tokens[row].flatten(0, 1).to(sae.W_enc)).cpu().unflatten(0, tokens.shape[1:3])
    return total / len(rows)


def _between(values: Tensor, places: Tensor, place: float) -> Tensor:
    """Values [S, ...] at places [S] ascending, read off at one place; flat beyond the ends."""
    right = int(torch.searchsorted(places, place))
    if right in (0, len(places)):
        return values[min(right, len(places) - 1)]
    left, span = right - 1, float(places[right] - places[right - 1])
    return torch.lerp(values[left], values[right], (place - float(places[left])) / span)


def _resized(plane: Tensor, grid: tuple[int, int]) -> Tensor:
    """[H, W, R] to a token grid: [T, R], bilinear."""
    if plane.shape[:2] != grid:
        plane = F.interpolate(plane.permute(2, 0, 1)[None], size=grid, mode="bilinear", align_corners=False)[0]
        plane = plane.permute(1, 2, 0)
    return plane.flatten(0, 1)

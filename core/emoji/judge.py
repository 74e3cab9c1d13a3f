"""The judge of the emoji world: names each generated picture by the nearest rendered emoji.

Only evaluation may see it. Nothing that finds, scores or steers features may.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .render import render_all, shifts
from .world import Kind, World, load_world


@dataclass(frozen=True)
class Verdict:
    """What the judge says of n pictures: the nearest kinds and the distances to them.

    `rmse` [n] is the root mean square over pixels and channels of values in [0, 1].
    """

    kinds: list[Kind]
    rmse: Tensor

    def share(self, value: str) -> float:
        """The share of pictures that have this attribute value."""
        return float(np.mean([kind.has(value) for kind in self.kinds]))

    def concept(self, name: str) -> float:
        """The share of pictures of this concept."""
        return float(np.mean([kind.concept == name for kind in self.kinds]))


def judge(pictures: np.ndarray | Tensor, *, batch: int = 512) -> Verdict:
    """The nearest rendered emoji, all shifts tried, for pictures uint8 [n, 64, 64, 3].

    The search runs over 2x2-averaged pictures; the distance is then exact, at full size.
    """
    world = load_world()
    x = torch.as_tensor(np.asarray(pictures)).float() / 255
    small, norms = _small(world)
    best = torch.cat([(part @ small.T - norms).argmax(1) for part in _halve(x).split(batch)])
    kinds, count = world.kinds(), len(world.kinds())
    rendered = torch.from_numpy(render_all(world)).float() / 255
    nearest = torch.stack([rendered[i % count].roll(shifts(world)[i // count], (0, 1)) for i in best.tolist()])
    rmse = (x - nearest).square().mean((1, 2, 3)).sqrt()
    return Verdict([kinds[i % count] for i in best.tolist()], rmse)


def _halve(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 2).flatten(1)


@cache
def _small(world: World) -> tuple[Tensor, Tensor]:
    """Rendered pictures at all shifts, halved: rows [shifts * kinds, 3072] and half their square norms."""
    pictures = torch.from_numpy(render_all(world)).float() / 255
    rows = torch.cat([_halve(pictures.roll(offset, (1, 2))) for offset in shifts(world)])
    return rows, rows.square().sum(1) / 2

"""How far a score would move with other pictures: a delete-a-block jackknife."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import HapaxError
from ..statistics import CONFIDENCE
from .kernels import Kernel, check_kernel
from .pairs import check_ridge, warn_if_unique
from .problem import Problem, pose
from .schur import DEFAULT_RIDGE, SCE, check_folds, score

BLOCKS = 20


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


class SCEInterval(NamedTuple):
    """A score with the intervals of its four values."""

    score: SCE
    image: Interval
    text: Interval
    image_effective: Interval
    text_effective: Interval


def sce_interval(
    image: Tensor,
    text: Tensor,
    *,
    blocks: int = BLOCKS,
    confidence: float = CONFIDENCE,
    kernel: Kernel = "cosine",
    sigma: float | None = None,
    ridge: float = DEFAULT_RIDGE,
    rff_dim: int | None = None,
    generator: torch.Generator | None = None,
    folds: int | None = None,
) -> SCEInterval:
    """A score with intervals for other pictures of the same prompts, by a delete-a-block jackknife.

    Each of the blocks, which hold an even share of every prompt's pictures, is left out in turn (Shao and Tu
    1995, sec. 2.3); the spread of the logarithms gives a t interval around the score. A bootstrap would repeat
    pictures, which lowers every entropy, and so exclude the score itself. The interval is about scores of this
    many pictures: fewer show fewer kinds, so compare at equal n.

    Args:
        image, text, kernel, sigma, ridge, rff_dim, generator, folds: as in `schur_complement_entropy`.
        blocks: how many; a multiple of folds.
        confidence: coverage, in (0, 1).

    Raises:
        HapaxError: as there, or too few pairs for the blocks.

    Example:
        >>> x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> found = sce_interval(x, torch.ones(200, 8))
        >>> bool(found.image.low < found.score.image < found.image.high)
        True
    """
    check_kernel(kernel, sigma, rff_dim)
    check_ridge(ridge)
    check_folds(folds)
    if blocks < 2:
        raise HapaxError(f"blocks is {blocks}; give at least 2 to leave out in turn, such as {BLOCKS}.")
    if folds is not None and blocks % folds:
        raise HapaxError(f"{blocks} blocks can't be shared out over {folds} folds; give a multiple.")
    problem = pose(image, text, blocks, kernel, sigma, rff_dim, generator)
    if folds is None:
        warn_if_unique(problem.unique_texts, problem.n)
    whole = _score(problem, ridge, folds)
    parts = [_score(problem, ridge, folds, without) for without in range(blocks)]
    names = ("image", "text", "image_effective", "text_effective")
    values = torch.tensor([[getattr(part, name) for part in parts] for name in names], dtype=torch.float64)
    return SCEInterval(
        whole, *(_interval(getattr(whole, n), v, confidence) for n, v in zip(names, values, strict=True))
    )


def _score(problem: Problem, ridge: float, folds: int | None, without: int | None = None) -> SCE:
    return score(*problem.spectra(ridge, folds, without), ridge, problem.n, problem.unique_texts)


def _interval(value: float, without: Tensor, confidence: float) -> Interval:
    """The t interval of a positive statistic on the log scale, from its values [B] without each block."""
    b = len(without)
    error = math.sqrt((b - 1) / b * float((without.log() - without.log().mean()).square().sum()))
    half = t_quantile((1 + confidence) / 2, b - 1) * error
    return Interval(value * math.exp(-half), value * math.exp(half))


def t_quantile(p: float, freedom: int) -> float:
    """Student's t quantile by the expansion in 1 / freedom (Abramowitz and Stegun 26.7.5); good from 4 on.

    >>> round(t_quantile(0.975, 19), 3), round(t_quantile(0.975, 4), 2)
    (2.093, 2.78)
    """
    z = float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))

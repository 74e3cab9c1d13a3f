"""Checking pairs of embeddings, and telling which prompts are the same."""

from __future__ import annotations

import math
import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..errors import HapaxError

NEARLY_ALL = 0.9
# Rows that are worked on at once: so few that they stay in the processor's cache.
CHUNK = 512
_MEDIAN_ROWS = 1000


def check_rows(x: Tensor, name: str, least: int = 1) -> Tensor:
    """Rows [n, d] of floating-point numbers, on a device that has fp64.

    Raises:
        HapaxError: not a matrix, fewer than `least` rows, a row of zeros, or a number that is not finite.
    """
    x = torch.as_tensor(x).detach()
    if x.ndim != 2 or x.shape[1] == 0:
        raise HapaxError(f"{name} has the shape {tuple(x.shape)}; expected one embedding a row, [n, d].")
    if len(x) < least:
        raise HapaxError(f"{name} has {len(x)} rows; give at least {least}.")
    x = x.cpu() if x.device.type == "mps" else x
    x = x if x.is_floating_point() else x.double()
    # A row's norm says whether all its numbers are finite: NaN and infinity survive a sum of squares.
    norms = torch.cat([part.double().norm(dim=1) for part in x.split(CHUNK)])
    if not bool(torch.isfinite(norms).all()):
        row = int((~torch.isfinite(norms)).nonzero()[0])
        raise HapaxError(f"{name} is not finite in row {row}; drop it, or embed it again in float32.")
    if not bool(norms.all()):
        raise HapaxError(f"{name} has only zeros in row {int((norms == 0).nonzero()[0])}; drop it, or embed it again.")
    return x


def check_pairs(image: Tensor, text: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Image and text embeddings [n, d] of n pairs, on the images' device.

    Raises:
        HapaxError: fewer than `least` pairs, another number or size of texts, or bad rows.
    """
    image, text = check_rows(image, "image"), check_rows(text, "text")
    if len(image) != len(text):
        raise HapaxError(f"There are {len(image)} images but {len(text)} texts; give one text for each image.")
    if image.shape[1] != text.shape[1]:
        raise HapaxError(
            f"Images have {image.shape[1]} dimensions but texts {text.shape[1]}; embed both with the same model."
        )
    if len(image) < least:
        raise HapaxError(f"There is {len(image)} pair; diversity needs at least {least} pairs of image and text.")
    return image, text.to(image.device)


def check_count(n: int) -> None:
    """Raise HapaxError unless as many as 2 pairs have come so far."""
    if n < 2:
        raise HapaxError(f"There are {n} pairs so far; diversity needs at least 2 pairs of image and text.")


def check_size(found: int, expected: int) -> None:
    """Raise HapaxError unless embeddings have as many dimensions as those before them."""
    if found != expected:
        raise HapaxError(
            f"These embeddings have {found} dimensions, but {expected} are expected; embed all with the same model, "
            "or begin anew."
        )


def check_ridge(ridge: float) -> None:
    """Raise HapaxError unless the ridge is a finite number above 0."""
    if not (ridge > 0 and math.isfinite(ridge)):
        raise HapaxError(
            f"ridge is {ridge}; give a finite number above 0: without one, prompts that all differ explain everything."
        )


def row_keys(x: Tensor) -> Tensor:
    """A 64-bit key for each row [n, d]: int64 [n], equal for equal rows, on every machine.

    Rows are equal if all their bits are (but for the sign of zero), so embed equal texts once. A multilinear
    hash: among a million texts, two different ones share a key with a probability of about 1e-7.
    """
    multipliers, keys = _multipliers(x.shape[1]).to(x.device), []
    for part in x.split(CHUNK):
        bits = (part.double() + 0.0).view(torch.int64)
        # In fp64 the last 29 bits of a number that was fp32 are zeros; the fold gives them something to say.
        keys.append((bits ^ (bits >> 29)).mul_(multipliers).sum(1))
    return torch.cat(keys)


@cache
def _multipliers(dim: int) -> Tensor:
    """Odd 64-bit numbers by SplitMix64 (Steele et al. 2014): the same with every version of every library."""
    with np.errstate(over="ignore"):
        z = np.arange(1, dim + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((z ^ (z >> np.uint64(31))) | np.uint64(1)).view(np.int64))


def unique_texts(text: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows [n, d] are the same: the number of each row's text [n], and one row of each [m]."""
    _, group = torch.unique(row_keys(text), return_inverse=True)
    count = int(group.max()) + 1
    n = len(group)
    first = torch.full((count,), n, device=group.device).scatter_reduce(
        0, group, torch.arange(n, device=group.device), "amin"
    )
    return group, first


def warn_if_unique(unique: int, n: int, stacklevel: int = 3) -> None:
    """Warn if nearly all prompts differ: then the ridge alone decides how much they explain."""
    if unique > NEARLY_ALL * n:
        warnings.warn(
            f"{unique} of {n} prompts are different, so how much they explain is mostly decided by the ridge; "
            "make several pictures of each prompt, or cross-fit with folds=5.",
            stacklevel=stacklevel,
        )


def blocks(group: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Assign rows to `count` random blocks [n], each with an even share of every prompt's rows.

    Args:
        group: [n] the number of each row's prompt.
        generator: on the CPU; by default one of seed 0.

    Raises:
        HapaxError: fewer than 2 blocks, or more than rows.
    """
    n = len(group)
    if not 2 <= count <= n:
        raise HapaxError(f"{count} blocks can't be made of {n} pairs; give at least 2, and at most one a pair.")
    generator = generator or torch.Generator().manual_seed(0)
    shuffled = torch.randperm(n, generator=generator)
    order = shuffled[torch.argsort(group.cpu()[shuffled], stable=True)]
    return torch.empty(n, dtype=torch.long).scatter_(0, order, torch.arange(n) % count)


def median_distance(x: Tensor) -> float:
    """The median distance between rows [n, d], the usual first choice of sigma; of 1000 evenly spaced rows.

    >>> round(median_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])), 6)
    1.414214
    """
    x = check_rows(x, "x", 2)
    rows = torch.linspace(0, len(x) - 1, min(len(x), _MEDIAN_ROWS)).long()
    return float(torch.pdist(x[rows].cpu().double()).median())

"""Intervals and p-values that every reported rate and mean needs."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import HapaxError

CONFIDENCE = 0.95


def wilson_interval(count: Tensor | int, n: int, *, confidence: float = CONFIDENCE) -> tuple[Tensor, Tensor]:
    """Score interval of a proportion (Wilson 1927, Eq. for the roots of (p - nu)^2 = z^2 p (1 - p) / n).

    Unlike the textbook normal interval it stays inside [0, 1] and does not collapse when count is 0 or n.

    Args:
        count: successes, an int or an integer tensor of any shape.
        n: trials, at least 1.
        confidence: coverage, in (0, 1).

    Returns:
        (low, high), fp64, of the shape of count.

    Raises:
        HapaxError: n < 1, a count outside [0, n], or a confidence outside (0, 1).

    Example:
        >>> low, high = wilson_interval(5, 100)
        >>> round(low.item(), 4), round(high.item(), 4)
        (0.0215, 0.1118)
    """
    successes = torch.as_tensor(count, dtype=torch.float64)
    if n < 1:
        raise HapaxError(f"a proportion of {n} trials has no interval; at least 1 trial is needed")
    if successes.numel() and (successes.min() < 0 or successes.max() > n):
        raise HapaxError(
            f"counts lie in [{successes.min():g}, {successes.max():g}] but must lie in [0, {n}], the trials"
        )
    z = _normal_quantile(confidence)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * torch.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the roots are 0 and 1 exactly; rounding would leave them off by an ulp.
    low = torch.where(successes == 0, 0.0, centre - half)
    return low, torch.where(successes == n, 1.0, centre + half)


def permutation_p(observed: float, null: Tensor) -> float:
    """One-sided p-value (1 + #{null >= observed}) / (1 + B) (Phipson and Smyth 2010); never 0.

    Args:
        observed: the statistic; large is extreme.
        null: [B] draws of the statistic where nothing is to be found.

    Raises:
        HapaxError: null is empty.

    Example:
        >>> permutation_p(3.0, torch.tensor([1.0, 2.0, 3.0]))
        0.5
    """
    if null.numel() == 0:
        raise HapaxError("a permutation p-value needs at least one null draw, and none was given")
    return (1 + int((null >= observed).sum())) / (1 + null.numel())


def bootstrap_weights(n: int, replicates: int, *, seed: int) -> Tensor:
    """How often each of n samples is drawn in each bootstrap replicate: [replicates, n], fp64, rows sum to n.

    A statistic of weighted sums is bootstrapped by one matrix product with these (Efron 1979).
    """
    if n < 1 or replicates < 1:
        raise HapaxError(f"a bootstrap of {n} samples and {replicates} replicates is empty; both must be >= 1")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (replicates, n), generator=generator)
    ones = torch.ones(replicates, n, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(1, drawn, ones)


def recentred_interval(point: Tensor, draws: Tensor, *, confidence: float = CONFIDENCE) -> tuple[Tensor, Tensor]:
    """Percentile interval of bootstrap draws, shifted so that their mean is the point estimate.

    For a statistic that resampling inflates (a distance, a norm) the plain percentile interval lies too high
    and can miss the estimate itself; after the shift only the spread of the draws is used.

    Args:
        point: [...] the estimates.
        draws: [..., B] their bootstrap replicates; NaN marks a replicate in which one is undefined.

    Returns:
        (low, high) [...]; low <= point <= high.
    """
    shift = point - draws.nanmean(-1)
    tail = (1 - confidence) / 2
    levels = torch.tensor([tail, 1 - tail], dtype=draws.dtype)
    low, high = torch.nanquantile(draws, levels, dim=-1) + shift
    return torch.minimum(low, point), torch.maximum(high, point)


def bootstrap_mean(
    values: Tensor, *, replicates: int = 1000, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over the first axis with a bootstrap interval.

    Args:
        values: [n] or [n, ...] one row per independent sample, finite.

    Returns:
        (mean, low, high), each [...], fp64.

    Raises:
        HapaxError: no samples, or a value that is not finite.

    Example:
        >>> mean, low, high = bootstrap_mean(torch.arange(11.0))
        >>> mean.item(), bool(low < 5 < high)
        (5.0, True)
    """
    if values.dim() == 0 or len(values) == 0:
        raise HapaxError(f"a mean needs samples along the first axis; found shape {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise HapaxError("the samples hold NaN or infinite values; drop those samples before averaging")
    flat = values.reshape(len(values), -1).double()
    mean = flat.mean(0)
    draws = bootstrap_weights(len(flat), replicates, seed=seed) @ flat / len(flat)
    low, high = recentred_interval(mean, draws.T, confidence=confidence)
    shape = values.shape[1:]
    return mean.reshape(shape), low.reshape(shape), high.reshape(shape)


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise HapaxError(f"confidence is {confidence:g} but must lie strictly between 0 and 1, as 0.95 does")
    upper = torch.tensor((1 + confidence) / 2, dtype=torch.float64)
    return torch.special.ndtri(upper).item()

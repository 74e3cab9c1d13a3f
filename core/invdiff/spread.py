"""Which pictures a prompt should give more often, and which less, for its pictures to be spread evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from .groups import checked_table, principal_scores, strata

# Chosen on half of the emoji model's professions (tried: 6 to 12 components, ridges of .3 to 3, cautions of .1 to 1).
COMPONENTS, RIDGE, CAUTION = 8, 1.0, 0.25
_STEPS, _GAIN = 500, 1e-7


def spread_probabilities(
    table: Tensor,
    prompt: Tensor | None = None,
    *,
    components: int = COMPONENTS,
    ridge: float = RIDGE,
    caution: float = CAUTION,
) -> Tensor:
    """Probabilities `[N]` of pictures under which they spread most widely over what tells them apart.

    Within each prompt they maximise

        log det(Cov_p(s) + ridge I) + caution H(p)

    over the scores s of the table's leading principal components. The first term is D-optimal design (Silvey,
    Titterington and Torsney 1978): where independent attributes add up in s, its optimum is even in each attribute on
    its own, for a yes-or-no attribute has its largest variance at one half, and the corners of a simplex at equal
    weights. The entropy keeps it from resting on a handful of pictures. The objective is concave: there is one optimum,
    and neither clusters nor starts to choose. Evenness over clusters would depend on into how many each kind was cut.

    Args:
        table: `[N, P]` a row per picture: CLIP embeddings, or losses as for `infer_groups`.
        prompt: `[N]` each picture's prompt; probabilities sum to 1 within each. None: all are of one prompt.
        components: at most as many principal components are spread over.
        ridge: variance, in units of the components' mean one, below which a direction counts as noise.
        caution: the entropy's weight; larger ones stay closer to the pictures as they are.

    Raises:
        HapaxError: not a finite table, or not a prompt for each picture.

    >>> seldom = torch.tensor([[1.0]] * 5 + [[0.0]] * 95)
    >>> round(float(spread_probabilities(seldom)[:5].sum()), 2)
    0.41
    """
    x = checked_table(table)
    p = torch.ones(len(x), dtype=torch.float64)
    parts = strata(prompt, len(x))
    scores = principal_scores(x, parts, components)
    scale = scores.square().mean().sqrt()
    for rows in parts:
        if float(scale) > 0:
            p[rows] = _optimum(scores[rows] / scale, ridge, caution)
    for u in torch.zeros(1, dtype=torch.long) if prompt is None else prompt.unique():
        rows = slice(None) if prompt is None else prompt == u
        p[rows] /= p[rows].sum()
    return p


def _optimum(x: Tensor, ridge: float, caution: float) -> Tensor:
    """The optimum for scores [n, D], by steps of mirror ascent that never descend."""
    log_p = torch.full((len(x),), -1.0, dtype=x.dtype).log_softmax(0)
    value, leverage = _objective(log_p, x, ridge, caution)
    rate = 0.5
    for _ in range(_STEPS):
        # At the optimum p is proportional to exp(leverage / caution).
        tried = ((1 - rate) * log_p + rate * leverage / caution).log_softmax(0)
        better, there = _objective(tried, x, ridge, caution)
        if better < value:
            rate /= 2
            continue
        gain, log_p, value, leverage, rate = better - value, tried, better, there, min(1.0, 1.3 * rate)
        if gain < _GAIN:
            break
    return log_p.exp()


def _objective(log_p: Tensor, x: Tensor, ridge: float, caution: float) -> tuple[float, Tensor]:
    """Its value, and the gradient of its first term: each picture's leverage [n]."""
    p = log_p.exp()
    centred = x - p @ x
    spread = (centred * p[:, None]).T @ centred + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    value = torch.logdet(spread) - caution * (p * log_p).sum()
    return float(value), (centred @ torch.linalg.inv(spread) * centred).sum(1)

"""From recorded activations to the tensors of an index: centring, contrasts, evidence, what chance would find."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distinctiveness import unit_rows
from .bank import ADDED
from .evidence import agreement, agreement_null, p_values, split_half
from .parts import Parts
from .search import Rows

# Directions without meaning that are looked up; captions that the permutation test draws from; rows a block.
NULL_DRAWS, POOL, BLOCK = 1000, 2048, 1 << 14


class _Means:
    """Means over the bank's m captions: by seed [R, C], by step [S, C]."""

    def __init__(self, parts: Parts, m: int) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        self.by_seed, self.by_step = zero, zero
        for span, part in parts:
            inside = max(0, min(span.stop, m) - span.start)
            self.by_seed = self.by_seed + part.by_seed[:inside].double().sum(0) / m
            self.by_step = self.by_step + part.by_step[:inside].double().sum(0) / m


def assemble(parts: Parts, m: int, whiten: float) -> tuple[dict[str, Tensor], float]:
    """Make the tensors of an index out of a recording whose first m captions are the bank; and `Rows.reach`.

    Two passes over the parts: one for the bank's mean, one for each caption's displacement from it.

    Args:
        parts: the recording; behind the bank it may hold the neutral prompt.
        m: M.
        whiten: shrinkage of the bank's covariance, as in `CaptionIndex.build`; 0 for none.

    Returns:
        rows [M + E, C] bfloat16 (the bank, then its E contrasts), contrasts [E] int64 (the captions that they are of),
        lengths [M + E], agreement, p, split_half [M], profile [M, S], mean [C], null [draws] ascending, and where
        there are such: neutral [C], metric [C, C].
    """
    means, every = _Means(parts, m), max(1, m // POOL)
    found: dict[str, list[Tensor]] = {name: [] for name in ("offset", "agreement", "split_half", "profile", "d")}
    for span, part in parts:
        d = part.by_seed.double() - means.by_seed
        offset = d.mean(1)
        found["offset"].append(offset.float())
        found["agreement"].append(agreement(d))
        found["split_half"].append(split_half(d))
        steps = (part.by_step.double() - means.by_step) @ offset[:, :, None]
        found["profile"].append(steps[..., 0] / offset.square().sum(1, keepdim=True).clamp_min(1e-30))
        found["d"].append(d[torch.tensor([row % every == 0 and row < m for row in span])].float())
    offset = torch.cat(found["offset"])
    tensors = {name: torch.cat(found[name]).float()[:m] for name in ("agreement", "split_half", "profile")}
    tensors["p"] = p_values(tensors["agreement"], agreement_null(torch.cat(found["d"])).float()).float()
    tensors["mean"] = means.by_seed.mean(0).float()
    if len(offset) > m:
        tensors["neutral"] = offset[m]
    longer, shorter = _contrasts(parts.captions[:m])
    tensors["contrasts"] = longer
    tensors["rows"] = torch.cat([offset[:m].bfloat16(), (offset[longer] - offset[shorter]).bfloat16()])
    if whiten:
        tensors["metric"] = _metric(offset[:m], whiten)
    tensors["lengths"], reach = _lengths(tensors["rows"], tensors.get("metric"))
    tensors["null"] = _null(tensors, reach)
    return tensors, reach


def _contrasts(captions: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Rows of the captions that add something to another one of the bank, and of that one: [E] int64 each."""
    rows = {caption: row for row, caption in enumerate(captions)}
    shorter = {row: rows.get(caption.rpartition(ADDED)[0]) for caption, row in rows.items()}
    pairs = [(long, short) for long, short in shorter.items() if short is not None]
    both = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _metric(offset: Tensor, shrinkage: float) -> Tensor:
    """Inverse [C, C] of the bank's covariance, shrunk towards a multiple of the identity of the same trace."""
    s = sum((block.T @ block for block in map(Tensor.double, offset.split(BLOCK))), torch.zeros(())) / len(offset)
    identity = torch.eye(len(s), dtype=s.dtype)
    return torch.linalg.inv((1 - shrinkage) * s + shrinkage * s.diagonal().mean() * identity).float().contiguous()


def _lengths(rows: Tensor, metric: Tensor | None) -> tuple[Tensor, float]:
    """The rows' lengths in the metric [M + E] fp32, and the largest of plain length over length."""
    plain = torch.cat([block.double().norm(dim=1) for block in rows.split(BLOCK)])
    if metric is None:
        return plain.float().clamp_min(1e-20), 1.0
    shaped = [((block.double() @ metric.double()) * block).sum(1).sqrt() for block in rows.split(BLOCK)]
    lengths = torch.cat(shaped).float().clamp_min(1e-20)
    return lengths, float((plain / lengths).max())


def _null(tensors: dict[str, Tensor], reach: float, *, seed: int = 0) -> Tensor:
    """The best cosines of directions without meaning, ascending: [draws] fp32."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(NULL_DRAWS, tensors["rows"].shape[1], generator=generator, dtype=torch.float64)
    metric = tensors.get("metric")
    if metric is None:
        queries = unit_rows(draws)
    else:
        queries = draws @ metric.double()
        queries = queries / (queries * draws).sum(1, keepdim=True).sqrt()
    return Rows(tensors["rows"], tensors["lengths"], reach).best(queries).sort().values

"""A score with its intervals as one row of plain numbers: what sce.json and audit.json hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .intervals import BLOCKS, sce_interval
from .schur import schur_complement_entropy

# A block that is left out should hold two pictures, or an interval says more about single ones than about the whole.
FEWEST = 2 * BLOCKS
SPREAD = ("image", "text", "image_effective", "text_effective")
Row = dict[str, Any]


def score_row(image: Tensor, text: Tensor, *, folds: int | None = None, **options: Any) -> Row:
    """The fields of `SCE`, and `image_interval` and so on: [low, high] at 95 %, null for fewer than 40 pictures.

    Args:
        image, text, folds, options: as in `schur_complement_entropy`.
    """
    if len(image) < FEWEST:
        score = schur_complement_entropy(image, text, folds=folds, **options)
        return score._asdict() | {f"{name}_interval": None for name in SPREAD}
    blocks = BLOCKS if folds is None else folds * -(-BLOCKS // folds)
    spread = sce_interval(image, text, folds=folds, blocks=blocks, **options)
    return spread.score._asdict() | {f"{name}_interval": list(getattr(spread, name)) for name in SPREAD}


def audit_rows(embeddings: Tensor, texts: Tensor, prompt: list[int]) -> Row:
    """The score of a whole audit and, under `prompts`, of each prompt's own pictures; cosine kernel.

    Args:
        embeddings: [n, d] of all pictures.
        texts: [m, d] of the prompts.
        prompt: [n] which one each picture has.
    """
    index = torch.tensor(prompt)
    rows = {i: (index == i).nonzero()[:, 0] for i in sorted(set(prompt))}
    each = [{"index": i, **score_row(embeddings[own], texts[index[own]])} for i, own in rows.items()]
    return {**score_row(embeddings, texts[index]), "kernel": "cosine", "prompts": each}

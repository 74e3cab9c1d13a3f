"""One picture on its way into a store: checked, and brought into canonical order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .activation_layout import Identity, Layout, named, read_identity
from .errors import HapaxError


@dataclass(frozen=True)
class Picture:
    """One picture, checked and in canonical order: its identity, caption, tensors by name, and layout."""

    identity: Identity
    caption: str | None
    tensors: dict[str, Tensor]
    layout: Layout


def read_picture(
    sample: Mapping[str, Any], tokens: Tensor, labels: Mapping[str, Tensor], dtype: torch.dtype
) -> Picture:
    """Check what is to be appended and bring it into canonical form (see `ActivationStore.append`)."""
    identity = read_identity(sample)
    caption = sample.get("caption")
    if caption is not None and not isinstance(caption, str):
        raise HapaxError(f"{named(identity)} has a caption of type {type(caption).__name__}, expected text")
    tokens = torch.as_tensor(tokens).detach()
    if tokens.ndim != 2 or not tokens.numel() or not tokens.is_floating_point():
        found = f"{list(tokens.shape)} of {tokens.dtype}"
        raise HapaxError(f"the tokens of {named(identity)} are {found}, expected floats [N, C]")
    steps, positions, order = _grid(labels, len(tokens), identity)
    kept = _to_dtype(tokens, dtype, identity)[order]
    tensors = {"tokens": kept.reshape(len(steps), len(positions), -1)}
    thumbnail, embedding = sample.get("thumbnail"), sample.get("embedding")
    if thumbnail is not None:
        tensors["thumbnails"] = _thumbnail(thumbnail, identity)
    if embedding is not None:
        tensors["embeddings"] = _embedding(embedding, identity)
    return Picture(identity, caption, tensors, _layout(steps, positions, tensors))


def _layout(steps: Tensor, positions: Tensor, tensors: dict[str, Tensor]) -> Layout:
    picture, embedding = tensors.get("thumbnails"), tensors.get("embeddings")
    return Layout(
        steps=tuple(steps.tolist()),
        positions=tuple(positions.tolist()),
        channels=tensors["tokens"].shape[-1],
        dtype=str(tensors["tokens"].dtype).removeprefix("torch."),
        thumbnail=None if picture is None else (picture.shape[0], picture.shape[1]),
        embedding=None if embedding is None else len(embedding),
    )


def _grid(labels: Mapping[str, Tensor], n: int, identity: Identity) -> tuple[Tensor, Tensor, Tensor]:
    for name in ("step", "position"):
        if name not in labels:
            raise HapaxError(f"{named(identity)} has no label {name!r}; every token needs its step and position")
        if tuple(labels[name].shape) != (n,):
            found = list(labels[name].shape)
            raise HapaxError(f"label {name!r} of {named(identity)} has shape {found}, expected [{n}]: one a token")
    step, position = labels["step"].detach().cpu().double(), labels["position"].detach().cpu()
    if not bool(((step >= 0) & (step <= 1)).all()):
        raise HapaxError(f"the steps of {named(identity)} must be progress, from 0 to 1")
    if position.is_floating_point() or position.dtype == torch.bool or int(position.min()) < 0:
        raise HapaxError(f"the positions of {named(identity)} must be whole numbers from 0 on")
    steps, step_of = torch.unique(step, return_inverse=True)
    positions, position_of = torch.unique(position.long(), return_inverse=True)
    cell, order = torch.sort(step_of * len(positions) + position_of)
    if n != len(steps) * len(positions) or not torch.equal(cell, torch.arange(n)):
        raise HapaxError(
            f"{named(identity)} has {n} tokens at {len(steps)} steps and {len(positions)} positions; "
            "a store has one regular grid, so record every position exactly once at every step"
        )
    return steps, positions, order


def _to_dtype(tokens: Tensor, dtype: torch.dtype, identity: Identity) -> Tensor:
    kept = tokens.to(dtype).cpu()
    if not bool(torch.isfinite(kept).all()):
        if not bool(torch.isfinite(tokens).all()):
            raise HapaxError(f"the tokens of {named(identity)} hold NaN or infinity; it was not stored")
        raise HapaxError(
            f"the tokens of {named(identity)} reach {float(tokens.abs().max()):.3g}, beyond {dtype}'s "
            f"{torch.finfo(dtype).max:.3g}; create the store with dtype=torch.float32"
        )
    return kept


def _thumbnail(value: Any, identity: Identity) -> Tensor:
    picture = torch.as_tensor(value).detach().cpu()
    if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        found = f"{list(picture.shape)} of {picture.dtype}"
        raise HapaxError(f"the thumbnail of {named(identity)} is {found}, expected uint8 [H, W, 3]")
    return picture.clone()


def _embedding(value: Any, identity: Identity) -> Tensor:
    vector = torch.as_tensor(value).detach().cpu().float()
    if vector.ndim != 1 or not bool(torch.isfinite(vector).all()):
        raise HapaxError(f"the embedding of {named(identity)} must be one finite vector, got {list(vector.shape)}")
    return vector.clone()

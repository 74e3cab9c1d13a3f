"""A bank at a glance: a map in two dimensions."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

import torch
from torch import Tensor

from ..distinctiveness import unit_rows
from ..errors import HapaxError


def flat_map(offsets: Tensor, method: Literal["pca", "umap"] = "pca", *, seed: int = 0) -> Tensor:
    """Places in two dimensions, [M, 2] fp32: principal components of the unit directions, or UMAP.

    Raises:
        HapaxError: an unknown method, UMAP without the umap-learn package, or fewer than 3 captions.
    """
    if len(offsets) < 3 or method not in ("pca", "umap"):
        raise HapaxError(f"A {method} map of {len(offsets)} captions can't be drawn; give pca or umap, and 3 or more.")
    u = unit_rows(offsets)
    if method == "umap":
        try:
            umap = import_module("umap")
        except ImportError as error:
            raise HapaxError("UMAP needs the package umap-learn, which is not here; install it, or use pca.") from error
        return torch.as_tensor(umap.UMAP(metric="cosine", random_state=seed).fit_transform(u.numpy())).float()
    x = u - u.mean(0)
    # Of C x C, so that a large bank costs one product; the larger half points right and up, so that signs are fixed.
    _, vectors = torch.linalg.eigh(x.T @ x)
    places = x @ vectors[:, -2:].flip(1)
    return (places * torch.where(places.pow(3).sum(0) < 0, -1.0, 1.0)).float()

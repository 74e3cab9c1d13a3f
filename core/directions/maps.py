"""A bank at a glance: clusters of captions and a map in two dimensions."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

import torch
from torch import Tensor

from ..distinctiveness import unit_rows
from ..errors import HapaxError

_ROUNDS, _STARTS = 50, 4


def cluster(offsets: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Spherical k-means (Dhillon and Modha 2001): the cluster of each row, [M] int64, biggest cluster first.

    Args:
        offsets: [M, C] directions; only where they point counts.
        count: clusters, 2 to M.

    Raises:
        HapaxError: a count outside 2 to M.
    """
    if not 2 <= count <= len(offsets):
        raise HapaxError(f"{count} clusters of {len(offsets)} captions can't be made; give 2 to {len(offsets)}.")
    u = unit_rows(offsets)
    generator = torch.Generator().manual_seed(seed)
    runs = [_k_means(u, count, generator) for _ in range(_STARTS)]
    labels = max(runs, key=lambda run: run[0])[1]
    order = torch.bincount(labels, minlength=count).argsort(descending=True, stable=True)
    return order.argsort()[labels]


def _k_means(u: Tensor, count: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """One run from random rows; the sum of cosines, and the labels."""
    centres = u[torch.randperm(len(u), generator=generator)[:count]]
    labels = torch.full((len(u),), -1)
    for _ in range(_ROUNDS):
        cosines, nearest = (u @ centres.T).max(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        sums = torch.zeros_like(centres).index_add_(0, labels, u)
        # A cluster that lost all rows starts anew at the row that fits worst.
        empty = torch.bincount(labels, minlength=count) == 0
        sums[empty] = u[cosines.argsort()[: int(empty.sum())]]
        centres = unit_rows(sums)
    return float(cosines.sum()), labels


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

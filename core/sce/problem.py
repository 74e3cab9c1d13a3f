"""A score's problem in its smaller form, cut into blocks of pairs, any of which can be left out again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from .crossfit import cross_fitted, cross_fitted_dual
from .dual import dual_spectra
from .kernels import Features, Kernel, features, gram, is_exact
from .moments import Moments, schur_complement
from .pairs import CHUNK, blocks, check_pairs, unique_texts


class Problem(Protocol):
    """What a score is computed from."""

    @property
    def n(self) -> int:
        """Number of pairs."""
        ...

    @property
    def unique_texts(self) -> int:
        """Number of different texts."""
        ...

    def spectra(self, ridge: float, folds: int | None, without: int | None = None) -> tuple[Tensor, Tensor]:
        """Eigenvalues of Lambda_I and Lambda_T, of all blocks or all but one; cross-fitted if there are folds."""
        ...


@dataclass(frozen=True, eq=False)
class Primal:
    """Sums of features over each block: the cosine kernel, and the Gaussian by random features."""

    n: int
    unique_texts: int
    blocks: list[Moments]

    def spectra(self, ridge: float, folds: int | None, without: int | None = None) -> tuple[Tensor, Tensor]:
        """As `Problem.spectra`; block i is in fold i mod folds."""
        kept = [(i, block) for i, block in enumerate(self.blocks) if i != without]
        if folds is None:
            parts = schur_complement(reduce(Moments.plus, [block for _, block in kept]), ridge)
        else:
            members = [[block for i, block in kept if i % folds == fold] for fold in range(folds)]
            parts = cross_fitted([reduce(Moments.plus, fold) for fold in members if fold], ridge)
        return torch.linalg.eigvalsh(parts.image), torch.linalg.eigvalsh(parts.text)


@dataclass(frozen=True, eq=False)
class Dual:
    """Gram matrices: the Gaussian kernel exactly.

    Attributes:
        k_image: [n, n] of the images.
        k_text: [m, m] of the different texts.
        group: [n] which text each image has.
        block: [n] which block each pair is in.
    """

    k_image: Tensor
    k_text: Tensor
    group: Tensor
    block: Tensor

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.k_image)

    @property
    def unique_texts(self) -> int:
        """Number of different texts."""
        return len(self.k_text)

    def spectra(self, ridge: float, folds: int | None, without: int | None = None) -> tuple[Tensor, Tensor]:
        """As `Problem.spectra`."""
        rows = (self.block != (-1 if without is None else without)).nonzero()[:, 0]
        k_image = self.k_image[rows][:, rows]
        if folds is None:
            texts, group = torch.unique(self.group[rows], return_inverse=True)
            return dual_spectra(k_image, self.k_text[texts][:, texts], group, ridge)
        group = self.group[rows]
        return cross_fitted_dual(k_image, self.k_text[group][:, group], self.block[rows] % folds, ridge)


def pose(
    image: Tensor,
    text: Tensor,
    n_blocks: int,
    kernel: Kernel,
    sigma: float | None,
    rff_dim: int | None,
    generator: torch.Generator | None,
) -> Problem:
    """Check pairs [n, d] and bring them into the smaller form.

    Raises:
        HapaxError: bad pairs, or more blocks than pairs.
    """
    image, text = check_pairs(image, text)
    group, first = unique_texts(text)
    block = torch.zeros_like(group) if n_blocks == 1 else blocks(group, n_blocks).to(group.device)
    if kernel == "gaussian" and is_exact(len(image), rff_dim):
        return Dual(gram(image, kernel, sigma), gram(text[first], kernel, sigma), group, block)
    phi = features(image.shape[1], kernel, sigma, rff_dim, generator)
    rows = [(block == number).nonzero()[:, 0] for number in range(n_blocks)]
    return Primal(len(image), len(first), [summed(phi, image[chosen], text[chosen]) for chosen in rows])


def summed(phi: Features, image: Tensor, text: Tensor, moments: Moments | None = None) -> Moments:
    """The sums of features over checked pairs [n, d], added to `moments` in place if those are given."""
    for some_images, some_texts in zip(image.split(CHUNK), text.split(CHUNK), strict=True):
        phi_image, phi_text = phi(some_images), phi(some_texts)
        if moments is None:
            moments = Moments.zeros(phi_image.shape[1], image.device)
        moments = moments.add(phi_image, phi_text)
    assert moments is not None
    return moments

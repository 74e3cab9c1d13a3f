"""Schur Complement Entropy: how diverse pictures are beyond what their prompts explain."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import HapaxError
from .kernels import Kernel, check_kernel
from .pairs import check_ridge, warn_if_unique
from .problem import pose

# A direction of the prompts counts by as much as it exceeds this share of the kernel's trace, which is 1. Being
# lam / (lam + ridge) each, all directions together count as at most 1 / ridge, here a thousand, degrees of freedom,
# whatever the number of pictures and the width of the embedding: one constant serves scores that are compared.
DEFAULT_RIDGE = 1e-3


class SCE(NamedTuple):
    """A score and what it depends on. Compare only scores of equal kernel, ridge, encoder and, roughly, n.

    The covariance of the pictures is Lambda_I + Lambda_T; lam are the eigenvalues of one part, tau their sum,
    and H(lam / tau) the entropy of the part, in nats.

    Attributes:
        image: exp(tau H(lam / tau)) of Lambda_I, which prompts leave open; as in the paper's code.
        text: the same of Lambda_T, which prompts explain.
        image_effective: exp(H(lam / tau)) of Lambda_I: how many equally common kinds would be as diverse.
        text_effective: the same of Lambda_T.
        trace_image: tau of Lambda_I, the share of the pictures' variance that prompts leave open.
        trace_text: tau of Lambda_T; the two sum to 1 unless cross-fitted.
        ridge: of the regression on the prompts.
        n: number of pairs.
        unique_texts: number of different prompts among them.
    """

    image: float
    text: float
    image_effective: float
    text_effective: float
    trace_image: float
    trace_text: float
    ridge: float
    n: int
    unique_texts: int


def schur_complement_entropy(
    image: Tensor,
    text: Tensor,
    *,
    kernel: Kernel = "cosine",
    sigma: float | None = None,
    ridge: float = DEFAULT_RIDGE,
    rff_dim: int | None = None,
    generator: torch.Generator | None = None,
    folds: int | None = None,
) -> SCE:
    """Diversity of pictures that their prompts don't explain, and that they do (arXiv 2412.18645), in fp64.

    The part of the pictures' kernel covariance that a ridge regression on the prompts leaves over is the Schur
    complement C_II - C_IT (C_TT + ridge)^-1 C_TI; the score is the exponential of its entropy. Cosine: exact,
    O(n d^2 + d^3). Gaussian: exact up to 5,000 pairs, O(n^3), unless `rff_dim` is given; beyond that by
    orthogonal random features.

    Args:
        image: [n, d] embeddings of n pictures, of any scale; at least 2.
        text: [n, d] embeddings of their prompts, by the same model. Equal rows are one prompt.
        kernel: "cosine", <x, y> / |x||y|, or "gaussian", exp(-|x - y|^2 / (2 sigma^2)).
        sigma: of the Gaussian kernel, in units of the embeddings.
        ridge: above 0. It is part of the score: the smaller, the more is put down to the prompts.
        rff_dim: number of random frequencies.
        generator: of those frequencies, on the CPU; by default one of seed 0.
        folds: 2 or more cross-fits the regression, so that it can't explain noise; for prompts that nearly all
            differ.

    Raises:
        HapaxError: fewer than 2 pairs, other counts or sizes of texts than of images, rows of zeros or not
            finite, a ridge that is not above 0, or settings that don't fit the kernel.

    Example:
        >>> prompts = torch.eye(4)[[0, 0, 1, 1]]
        >>> pictures = torch.eye(4)[[0, 2, 1, 3]]  # two kinds under each prompt
        >>> score = schur_complement_entropy(pictures, prompts, ridge=1e-9)
        >>> round(score.image_effective, 3), round(score.text_effective, 3), round(score.trace_image, 3)
        (2.0, 2.0, 0.5)
    """
    check_kernel(kernel, sigma, rff_dim)
    check_ridge(ridge)
    check_folds(folds)
    problem = pose(image, text, folds or 1, kernel, sigma, rff_dim, generator)
    if folds is None:
        warn_if_unique(problem.unique_texts, problem.n)
    return score(*problem.spectra(ridge, folds), ridge, problem.n, problem.unique_texts)


def check_folds(folds: int | None) -> None:
    """Raise HapaxError unless there are no folds or at least 2."""
    if folds is not None and folds < 2:
        raise HapaxError(f"folds is {folds}; give 2 or more, or None for no cross-fitting.")


def score(image: Tensor, text: Tensor, ridge: float, n: int, unique_texts: int) -> SCE:
    """The score of the eigenvalues of both parts."""
    (coded_i, effective_i, tau_i), (coded_t, effective_t, tau_t) = entropies(image), entropies(text)
    return SCE(coded_i, coded_t, effective_i, effective_t, tau_i, tau_t, ridge, n, unique_texts)


def entropies(lam: Tensor) -> tuple[float, float, float]:
    """exp(tau H(lam / tau)), exp(H(lam / tau)) and tau of eigenvalues; a part that is nothing is of one kind.

    Eigenvalues below 0 are rounding, or what cross-fitting takes for worse than nothing, and count as 0.

    >>> [round(value, 6) for value in entropies(torch.tensor([0.25, 0.25], dtype=torch.float64))]
    [1.414214, 2.0, 0.5]
    """
    lam = lam.clamp(min=0)
    tau = lam.sum()
    if tau == 0:
        return 1.0, 1.0, 0.0
    total = -torch.xlogy(lam, lam / tau).sum()
    return float(total.exp()), float((total / tau).exp()), float(tau)

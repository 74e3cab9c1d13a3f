"""What a mixture of known kinds is made of, from activations at paired seeds: discriminants, shares, how sure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ..look import shrunk_covariance

# Parts of the seeds that take turns at being judged by discriminants fitted to the others.
FOLDS = 8


def pole_likeness(x: Tensor) -> Tensor:
    """How much each activation looks like each pole, as the posterior of linear discriminants: [K + 1, R, K] fp64.

    The discriminants that a seed is judged by are fitted to the poles' other seeds, so they err on the poles as they do
    on the prompt.

    Args:
        x: [K + 1, R, C] activations at R paired seeds, the prompt's first.
    """
    x, r = x.double(), x.shape[1]
    fold = torch.arange(r) % min(FOLDS, r)
    likeness = torch.zeros(len(x), r, len(x) - 1, dtype=x.dtype)
    for number in fold.unique():
        inside, outside = fold == number, x[1:, fold != number]
        means = outside.mean(1)
        spread = shrunk_covariance((outside - means[:, None]).flatten(0, 1))
        # Shrunk, it is positive definite, unless nothing varies at all.
        spread.diagonal().add_(1e-30)
        slopes = torch.cholesky_solve(means.T, torch.linalg.cholesky(spread))
        logits = x[:, inside] @ slopes - 0.5 * (means * slopes.T).sum(1)
        likeness[:, inside] = logits.softmax(-1)
    return likeness


def paired_gram(x: Tensor, weights: Tensor) -> Tensor:
    """Inner products of the means of x [K, R, C] over seeds, free of the noise's own length: [B, K, K] fp64.

    A mean's square length exceeds the true mean's by the noise's variance over R, which would draw every lean
    towards 0. So only products of different seeds count: sum_{r != s} c_r c_s <x_r, x_s> / sum_{r != s} c_r c_s.
    What all captions have in common at a seed is taken out first.

    Args:
        weights: [B, R] how often each seed counts; a row of ones, or of a bootstrap.
    """
    z = x.double() - x.double().mean(0)
    sums = torch.einsum("br,krc->bkc", weights, z)
    own = torch.einsum("krc,lrc->rkl", z, z)
    same = (weights.square() @ own.flatten(1)).unflatten(1, own.shape[1:])
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return (sums @ sums.transpose(1, 2) - same) / pairs[:, None, None]


def mixture_shares(gram: Tensor, products: Tensor) -> Tensor:
    """The w [B, K], w >= 0 and sum w = 1, for which sum_k w_k H_k comes nearest to H.

    The minimum lies inside one face of the simplex; each of the 2^K - 1 faces has it in closed form (Lagrange), and
    the best admissible one is taken.

    Args:
        gram: [B, K, K] inner products of the H_k.
        products: [B, K] of the H_k with H.
    """
    values, vectors = torch.linalg.eigh(gram)
    floor = 1e-9 * values.abs().amax(1, keepdim=True).clamp_min(1e-30)
    gram = vectors @ torch.diag_embed(values.clamp_min(floor)) @ vectors.transpose(1, 2)
    b, k = products.shape
    best = torch.full((b,), torch.inf, dtype=gram.dtype)
    shares = torch.zeros(b, k, dtype=gram.dtype)
    for size in range(1, k + 1):
        for face in map(list, combinations(range(k), size)):
            w = torch.zeros(b, k, dtype=gram.dtype)
            w[:, face] = _on_face(gram[:, face][:, :, face], products[:, face])
            cost = (w[:, None] @ gram @ w[:, :, None]).flatten() - 2 * (w * products).sum(1)
            better = (w >= -1e-9).all(1) & (cost < best)
            best = torch.where(better, cost, best)
            shares = torch.where(better[:, None], w, shares)
    return shares.clamp(0, 1)


def _on_face(gram: Tensor, products: Tensor) -> Tensor:
    """The stationary point with sum w = 1: w = G^-1 (p - lambda 1)."""
    solved = torch.linalg.solve(gram, torch.stack([products, torch.ones_like(products)], -1))
    total = solved.sum(1)
    return solved[..., 0] - ((total[:, 0] - 1) / total[:, 1])[:, None] * solved[..., 1]


def counting_error(shares: Tensor, pictures: int, pairs: Sequence[tuple[int, int]] = ()) -> tuple[Tensor, Tensor]:
    """Centres and half widths of 95 % intervals that shares [K] would have if pictures of known kinds were counted.

    No reading can be surer. The bootstrap is: where a rare kind happens to be among none of the pictures, resampling
    them brings none in. So one of each kind is added to the count (Laplace's rule; Agresti and Coull 1998 add two).

    Args:
        pairs: instead of the shares, the differences between these two of them.
    """
    n = pictures + len(shares)
    smooth = (pictures * shares + 1) / n
    if pairs:
        first, second = (smooth[list(each)] for each in zip(*pairs, strict=True))
        return first - second, 1.96 * ((first + second - (first - second).square()) / n).sqrt()
    return smooth, 1.96 * (smooth * (1 - smooth) / n).sqrt()

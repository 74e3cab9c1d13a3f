"""Sparse arithmetic on the few (token, latent) pairs that are active.

A batch has B * d_sae pairs and only B * k of them are active, so of the six matrix products of a dense step
only one, the pre-activations, is needed in full. All others are sums of rows picked by the active pairs:
`embedding_bag`, which is vectorised on CPUs, has a CUDA kernel, and adds without atomics in a fixed order,
so that results repeat bit for bit.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class Active:
    """The active pairs of a batch, in row-major order.

    Args:
        flat: ascending positions `[E]` in a `[n_tokens, n_latents]` matrix.
        shape: (n_tokens, n_latents).
    """

    def __init__(self, flat: Tensor, shape: tuple[int, int]) -> None:
        self.flat, self.shape = flat, shape
        self.rows = flat.div(shape[1], rounding_mode="floor")
        self.cols = flat - self.rows * shape[1]

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The order `[E]` that sorts the pairs by latent, and where each latent starts `[n_latents]`."""
        cols, order = torch.sort(self.cols, stable=True)
        return order, _starts(cols, self.shape[1])


def batch_topk(pre: Tensor, n: int) -> Active:
    """The n largest positive entries of a whole batch (BatchTopK, arXiv 2412.06410), all if there are fewer.

    Exactly the set that a flat top-k picks, ties aside. Sorting B * d_sae values would cost as much as the
    matrix product that made them, so a strided sample first gives a bound that is almost surely below the
    n-th value; only what lies above it is sorted, and if it was too high it is lowered.

    Args:
        pre: pre-activations `[B, d_sae]`.
        n: how many entries to keep over the batch.

    >>> batch_topk(torch.tensor([[5.0, 1.0, 0.0], [4.0, 3.0, -2.0]]), 3).flat
    tensor([0, 3, 4])
    """
    values = pre.flatten()
    sample = values[:: _STRIDE if len(values) >= _STRIDE**2 else 1]
    expected = n * len(sample) / len(values)
    rank = math.ceil(expected + 5 * math.sqrt(expected)) + 1
    while True:
        bound = _kth_largest(sample, rank).clamp(min=0) if rank < len(sample) else values.new_zeros(())
        flat = (values > bound).nonzero().squeeze(1)
        if len(flat) >= n or not bound:
            break
        rank *= 2
    if len(flat) > n:
        flat = flat[values[flat].topk(n, sorted=False).indices.sort().values]
    return Active(flat, (pre.shape[0], pre.shape[1]))


# A prime, so that it shares no factor with d_sae and the sample visits every latent.
_STRIDE = 97


def _kth_largest(values: Tensor, k: int) -> Tensor:
    return values.topk(k, sorted=False).values.min()


def sparse_encode(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, values: Tensor, active: Active) -> Tensor:
    """Give the active pre-activations their gradient: z_tj = W_enc_j . (x_t - b_dec) + b_enc_j.

    Args:
        x: tokens `[B, d_in]`; they get no gradient.
        b_dec, W_enc, b_enc: `[d_in]`, `[d_sae, d_in]`, `[d_sae]`.
        values: the pre-activations at the active pairs `[E]`, known from the dense product.
        active: the pairs.

    Returns `values` `[E]`; backward touches only the active pairs.
    """
    return _Encode.apply(x, b_dec, W_enc, b_enc, values, active)


def sparse_decode(z: Tensor, W_dec: Tensor, active: Active, bags: Tensor, n_bags: int) -> Tensor:
    """Sum z_e W_dec[latent of e] over the pairs e of each bag: `[n_bags, d_in]`.

    Args:
        z: activations at the active pairs `[E]`.
        W_dec: decoder `[d_sae, d_in]`.
        active: the pairs.
        bags: non-descending bag of each pair `[E]`: its token, or its (token, prefix group).
        n_bags: how many bags there are.
    """
    # embedding_bag's own backward is right for z, a dot product for each pair; for W_dec it scatters.
    out = _bag(W_dec.detach(), active.cols, _starts(bags, n_bags), z)
    return _DecoderGradient.apply(out, W_dec, z.detach(), active, bags)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, b_dec, W_enc, _, values, ctx.active = args
        ctx.save_for_backward(x - b_dec, W_enc)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        centred, W_enc = ctx.saved_tensors
        (g,) = grads
        order, starts = ctx.active.by_latent
        dW = _bag(centred, ctx.active.rows[order], starts, g[order])
        db = _bag(g[:, None], order, starts, torch.ones_like(g))[:, 0]
        return None, -(db @ W_enc), dW, db, None, None


class _DecoderGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        out, _, z, ctx.active, bags = args
        ctx.save_for_backward(z, bags)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        z, bags = ctx.saved_tensors
        (g,) = grads
        order, starts = ctx.active.by_latent
        return g, _bag(g, bags[order], starts, z[order]), None, None, None


def _bag(table: Tensor, index: Tensor, starts: Tensor, weight: Tensor) -> Tensor:
    return embedding_bag(index, table.contiguous(), starts, mode="sum", per_sample_weights=weight)


def _starts(ids: Tensor, n: int) -> Tensor:
    """Where each of the ids 0 to n - 1 begins in `ids`, which is sorted."""
    return torch.searchsorted(ids, torch.arange(n, device=ids.device))

"""The Matryoshka sparse autoencoder as it is used: encode, decode, and both for a few latents only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HapaxError
from .config import check_shape
from .sparse import Active, sparse_decode


class MatryoshkaSAE(nn.Module):
    """A sparse autoencoder whose first latents alone already reconstruct (arXiv 2503.17547; RAIGen, Eq. 1).

    z = a [a > threshold] with a = W_enc (x - b_dec) + b_enc, and x_hat = b_dec + z W_dec. The threshold is
    one number; training sets it so that k latents a token are active on average. Everything is in the units
    of the tokens: rows of W_dec have unit norm, so an activation is the length of the vector that it adds.
    Parameters are fp32 and frozen outside `train_sae`; half-precision tokens are converted.

    Args:
        d_in: channels of a token.
        d_sae: latents.
        prefix_sizes: cumulative prefix sizes; the last is d_sae.
        k: active latents a token, on average.
        seed: of the random unit decoder rows; the encoder starts as their transpose.

    Attributes:
        scale: the factor on the tokens during training, sqrt(d_in) / E||x||; kept for the record.
        meta: JSON-able provenance that `save_sae` stores and `load_sae` brings back.

    Raises HapaxError if the numbers don't fit together.

    >>> sae = MatryoshkaSAE(d_in=8, d_sae=32, prefix_sizes=(8, 32), k=4)
    >>> sae.decode(sae.encode(torch.randn(5, 8))).shape
    torch.Size([5, 8])
    """

    threshold: Tensor
    scale: Tensor
    ends: Tensor

    def __init__(self, d_in: int, d_sae: int, prefix_sizes: Sequence[int], k: int, *, seed: int = 0) -> None:
        super().__init__()
        check_shape(d_in, d_sae, prefix_sizes, k)
        self.d_in, self.d_sae, self.prefix_sizes, self.k = d_in, d_sae, tuple(prefix_sizes), k
        self.meta: dict[str, Any] = {}
        rows = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed))
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(rows, requires_grad=False)
        self.W_enc = nn.Parameter(rows.clone(), requires_grad=False)
        self.b_dec = nn.Parameter(torch.zeros(d_in), requires_grad=False)
        self.b_enc = nn.Parameter(torch.zeros(d_sae), requires_grad=False)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("ends", torch.tensor(self.prefix_sizes), persistent=False)

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return a = W_enc (x - b_dec) + b_enc, `[N, d_sae]`, for tokens `[N, d_in]`."""
        return nn.functional.linear(self._tokens(x) - self.b_dec, self.W_enc, self.b_enc)

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations z `[N, d_sae]`, zero or above the threshold, of tokens x `[N, d_in]`."""
        return self._gate(self.pre_activations(x))

    def decode(self, z: Tensor, level: int = -1) -> Tensor:
        """Return the reconstruction `[N, d_in]` from z `[N, d_sae]`, by the latents of one prefix only.

        `level` is an index into `prefix_sizes`; the last is the whole SAE.
        """
        if z.shape[-1] != self.d_sae:
            raise HapaxError(
                f"The activations have {z.shape[-1]} latents, but this SAE has {self.d_sae}; "
                "give what its encode returns."
            )
        size = self.prefix_sizes[level]
        return z[..., :size] @ self.W_dec[:size] + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction `[N, d_in]` of tokens `[N, d_in]`."""
        return self.decode(self.encode(x))

    def encode_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return `encode(x)[:, rows]`, `[N, R]`, without computing the other latents; rows `[R]`."""
        centred = self._tokens(x) - self.b_dec
        return self._gate(nn.functional.linear(centred, self.W_enc[rows], self.b_enc[rows]))

    def decode_rows(self, z: Tensor, rows: Tensor) -> Tensor:
        """Return what the latents `rows` `[R]` add to a token, z W_dec[rows], for z `[N, R]`: `[N, d_in]`."""
        return z @ self.W_dec[rows]

    @torch.no_grad()
    def subset(self, rows: Tensor) -> MatryoshkaSAE:
        """Return an SAE of copies of the latents `rows` `[R]` only, on the CPU, for edits that touch few."""
        part = MatryoshkaSAE(self.d_in, len(rows), (len(rows),), min(self.k, len(rows)))
        rows = rows.to(self.W_dec.device)
        for name, tensor in part.state_dict().items():
            whole = getattr(self, name)
            tensor.copy_(whole[rows] if name in ("W_dec", "W_enc", "b_enc") else whole)
        return part

    def prefix_errors(self, x: Tensor, z: Tensor, active: Active) -> list[Tensor]:
        """Return x_hat - x `[N, d_in]` for b_dec alone and then for each prefix, from active pairs only.

        Args:
            x: tokens `[N, d_in]`.
            z: activations at the active pairs `[E]`.
            active: the pairs.
        """
        n, groups = len(x), len(self.prefix_sizes)
        # A pair counts for the first prefix that holds it and for all wider ones: sum by group, then over groups.
        bags = active.rows * groups + torch.searchsorted(self.ends, active.cols, right=True)
        parts = sparse_decode(z, self.W_dec, active, bags, n * groups).view(n, groups, self.d_in)
        return list(accumulate(parts.unbind(1), initial=self.b_dec - x))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring the rows of W_dec back to unit norm."""
        self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def unscale(self, scale: Tensor) -> None:
        """Turn an SAE of scaled tokens, scale * x, into the same SAE of the tokens x themselves.

        With fixed weights the model is homogeneous, so only the biases and the threshold change.
        """
        for tensor in (self.b_dec, self.b_enc, self.threshold):
            tensor /= scale
        self.scale.copy_(scale)

    def _gate(self, a: Tensor) -> Tensor:
        return torch.where(a > self.threshold, a, 0)

    def _tokens(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise HapaxError(
                f"The tokens have {x.shape[-1]} channels, but this SAE reads {self.d_in}; "
                "use the SAE of this model and site."
            )
        return x.to(self.W_enc.dtype)

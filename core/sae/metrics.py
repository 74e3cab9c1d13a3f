"""How good an SAE is on tokens: FVU, L0, dead latents and densities, for each prefix; and its threshold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..distributed import gathered, summed
from ..errors import HapaxError
from .mixing import checked_tokens
from .model import MatryoshkaSAE
from .sparse import Active, batch_topk

# Edges of the density histogram: half decades of the share of tokens that activate a latent.
LOG10_DENSITY_EDGES = tuple(-6 + 0.5 * i for i in range(13))
_CHUNK = 4096


@torch.no_grad()
def sae_metrics(sae: MatryoshkaSAE, tokens: Tensor) -> dict[str, Any]:
    """Measure an SAE on tokens `[N, d_in]`; over all processes' tokens in a data-parallel run.

    Returns a JSON-able dict, in which each list has one entry for each prefix of the SAE:

    - `fvu`: share of the tokens' variance about their mean that the prefix leaves unexplained.
    - `l0`: its active latents a token.
    - `dead`: share of its latents that no token activated.
    - `density`: `log10_edges` (13) and `counts` (12 for each prefix): its live latents by the share of tokens
      that activate them; shares below the first edge count in the first bin.
    - `tokens`: N.

    Raises HapaxError if the tokens are not finite floats `[N, d_in]`, or don't vary.
    """
    checked_tokens(tokens, sae.d_in)
    like = sae.W_dec
    total = torch.zeros(sae.d_in, dtype=torch.float64, device=like.device)
    squares = torch.zeros((), dtype=torch.float64, device=like.device)
    error = torch.zeros(len(sae.prefix_sizes), dtype=torch.float64, device=like.device)
    fires = torch.zeros(sae.d_sae, dtype=torch.long, device=like.device)
    for x, active, z in _encoded(sae, tokens):
        centred = (x - sae.b_dec).double()
        total += centred.sum(0)
        squares += centred.square().sum()
        error += torch.stack([e.square().sum(1).double().sum() for e in sae.prefix_errors(x, z, active)[1:]])
        fires += torch.bincount(active.cols, minlength=sae.d_sae)
    n = int(summed(torch.tensor(len(tokens), device=like.device)))
    squares = summed(squares)
    variance = squares - summed(total).square().sum() / max(n, 1)
    # Equal tokens leave fp64 rounding, not zero.
    if not variance > 1e-12 * squares:
        raise HapaxError(f"The {n} tokens to measure on don't vary; give at least two different tokens.")
    fires = summed(fires)
    return {
        "fvu": (summed(error) / variance).tolist(),
        "l0": [int(fires[:p].sum()) / n for p in sae.prefix_sizes],
        "dead": [float((fires[:p] == 0).double().mean()) for p in sae.prefix_sizes],
        "density": {
            "log10_edges": list(LOG10_DENSITY_EDGES),
            "counts": [_density_counts(fires[:p], n) for p in sae.prefix_sizes],
        },
        "tokens": n,
    }


@torch.no_grad()
def calibrate_threshold(sae: MatryoshkaSAE, tokens: Tensor) -> None:
    """Set the threshold so that k latents a token are active on average over `tokens` `[N, d_in]`.

    The threshold is a quantile: the largest of the N * d_sae pre-activations that must stay inactive. (A
    running mean of each batch's smallest kept activation, the usual way, is noisy and settles below it.) In
    a data-parallel run it is the quantile over all processes' tokens.
    """
    n = int(summed(torch.tensor(len(tokens), device=sae.W_dec.device)))
    wanted = sae.k * n + 1
    pool = sae.W_dec.new_zeros(0)
    for part in tokens.split(_CHUNK):
        pre = sae.pre_activations(part.to(sae.W_dec.device))
        pool = torch.cat([pool, pre.flatten()[batch_topk(pre, wanted).flat]])
        if len(pool) > wanted:
            pool = pool.topk(wanted, sorted=False).values
    pool = gathered(pool)
    enough = len(pool) >= wanted
    sae.threshold.copy_(pool.topk(wanted).values[-1] if enough else torch.zeros(()))


def _encoded(sae: MatryoshkaSAE, tokens: Tensor) -> Iterator[tuple[Tensor, Active, Tensor]]:
    for part in tokens.split(_CHUNK):
        x = part.to(sae.W_dec.device, sae.W_dec.dtype)
        pre = sae.pre_activations(x)
        flat = (pre.flatten() > sae.threshold).nonzero().squeeze(1)
        active = Active(flat, (pre.shape[0], pre.shape[1]))
        yield x, active, pre.flatten()[flat]


def _density_counts(fires: Tensor, n: int) -> list[int]:
    density = (fires[fires > 0].double() / n).log10().clamp(LOG10_DENSITY_EDGES[0], 0.0)
    edges = torch.tensor(LOG10_DENSITY_EDGES, dtype=torch.float64, device=density.device)
    return torch.histogram(density.cpu(), edges.cpu()).hist.long().tolist()

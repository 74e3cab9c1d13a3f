"""From recorded tokens to one activation per picture and latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from .errors import HapaxError

# Tokens encoded at a time: 335 MB of fp32 activations for 20,480 latents.
TOKENS = 4096


@torch.no_grad()
def pool_activations(
    sae_encode: Callable[[Tensor], Tensor],
    tokens: Tensor,
    *,
    steps: Sequence[int] | None = None,
    how: Literal["mean", "max"] = "mean",
    which: Literal["all", "last"] = "all",
) -> Tensor:
    """Image-level activations z_i (RAIGen, arXiv 2602.06806, Sec. 4.2): the mean over positions, per step.

    The paper scores the last step alone. Attributes are often told apart better in the middle of the path, so
    by default the steps recorded are taken together.

    Args:
        sae_encode: [T, C] -> [T, L], as `MatryoshkaSAE.encode`; slice its result to score a prefix only.
        tokens: [n, S, P, C] pictures, recorded steps, positions, channels.
        steps: indices into S, negative ones from the end; None takes all.
        how: over the steps, "mean", or "max" for what shows at one step only.
        which: "all" of the steps, or the "last" of them, as the paper does.

    Returns:
        [n, L] fp32.

    Raises:
        HapaxError: tokens of another rank, without pictures, steps or positions, a step that was not
            recorded, an unknown option.

    Example:
        >>> tokens = torch.tensor([1.0, 2.0, 3.0, -4.0]).reshape(1, 2, 2, 1)  # 2 steps of 2 positions
        >>> pool_activations(torch.relu, tokens), pool_activations(torch.relu, tokens, how="max")
        (tensor([[1.5000]]), tensor([[1.5000]]))
    """
    if tokens.dim() != 4 or 0 in tokens.shape:
        raise HapaxError(f"tokens have shape {tuple(tokens.shape)}; expected [pictures, steps, positions, C]")
    if how not in ("mean", "max"):
        raise HapaxError(f"how is {how!r}; it must be 'mean' or 'max'")
    total: Tensor | None = None
    chosen = _chosen_steps(tokens.shape[1], steps, which)
    for step in chosen:
        z = _mean_over_positions(sae_encode, tokens[:, step])
        if total is None:
            total = z
        else:
            total = torch.maximum(total, z) if how == "max" else total + z
    assert total is not None
    return total / len(chosen) if how == "mean" else total


def _mean_over_positions(sae_encode: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """[n, P, C] -> [n, L]; averaged in fp32, because small activations vanish in fp16."""
    pictures = tokens.split(max(1, TOKENS // tokens.shape[1]))
    encoded = ((sae_encode(x.flatten(0, 1)), len(x)) for x in pictures)
    return torch.cat([z.unflatten(0, (n, -1)).mean(1, dtype=torch.float32) for z, n in encoded])


def _chosen_steps(recorded: int, steps: Sequence[int] | None, which: str) -> list[int]:
    chosen = list(range(recorded)) if steps is None else list(steps)
    if not chosen or any(not -recorded <= step < recorded for step in chosen):
        raise HapaxError(f"steps are {chosen}; {recorded} steps were recorded, choose from 0 to {recorded - 1}")
    if which not in ("all", "last"):
        raise HapaxError(f"which is {which!r}; it must be 'all' or 'last'")
    return chosen if which == "all" else chosen[-1:]

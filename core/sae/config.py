"""What an SAE is (its shape) and how it is trained (its hyperparameters), validated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import HapaxError


def check_shape(d_in: int, d_sae: int, prefix_sizes: Sequence[int], k: int) -> None:
    """Raise HapaxError unless the four numbers describe a Matryoshka SAE."""
    for name, value in (("d_in", d_in), ("d_sae", d_sae), ("k", k)):
        _whole(name, value, 1)
    sizes = list(prefix_sizes) if isinstance(prefix_sizes, Sequence) else [prefix_sizes]
    if not sizes or any(isinstance(p, bool) or not isinstance(p, int) or p < 1 for p in sizes):
        raise HapaxError(f"prefix_sizes is {sizes}; give whole numbers of latents, such as (2048, 20480).")
    if any(a >= b for a, b in pairwise(sizes)):
        raise HapaxError(
            f"prefix_sizes is {sizes}, which does not increase; give cumulative sizes, such as (2048, 20480)."
        )
    if sizes[-1] != d_sae:
        raise HapaxError(f"prefix_sizes ends with {sizes[-1]}, but d_sae is {d_sae}; the last prefix is the whole SAE.")
    if k > d_sae:
        raise HapaxError(f"k is {k}, but there are only {d_sae} latents; give a k of at most d_sae.")


@dataclass(frozen=True)
class SAEConfig:
    """Shape and training of a `MatryoshkaSAE`; the defaults are those of RAIGen (arXiv 2602.06806, App. E.1).

    Args:
        d_in: channels of a token.
        d_sae: latents; the paper's is 16 times d_in.
        prefix_sizes: cumulative prefix sizes, the last is d_sae; the paper's is (2048, 20480).
        k: active latents a token, on average over a batch (BatchTopK).
        lr: Adam's learning rate; its betas are (0.9, 0.99), without warm-up or decay.
        batch_size: tokens a step, over all processes together.
        epochs: passes over the tokens; a one-shot iterator has only one.
        aux_coefficient: weight of the auxiliary loss that revives dead latents; 0 turns it off.
        aux_k: how many dead latents a token may use in the auxiliary loss.
        dead_after: a latent is dead when no token activated it in this many batches.
        seed: of the initial weights and of the token order.
        bf16: multiply with the encoder in bfloat16; weights, Adam state and threshold stay in fp32.

    Raises HapaxError if a value makes no sense.

    >>> SAEConfig(d_in=1280, d_sae=20480, prefix_sizes=(2048, 20480)).k
    32
    """

    d_in: int
    d_sae: int
    prefix_sizes: tuple[int, ...]
    k: int = 32
    lr: float = 3e-4
    batch_size: int = 4096
    epochs: int = 5
    aux_coefficient: float = 1 / 32
    aux_k: int = 512
    dead_after: int = 20
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        check_shape(self.d_in, self.d_sae, self.prefix_sizes, self.k)
        object.__setattr__(self, "prefix_sizes", tuple(self.prefix_sizes))
        for name in ("batch_size", "epochs", "aux_k", "dead_after"):
            _whole(name, getattr(self, name), 1)
        _whole("seed", self.seed, 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise HapaxError(f"lr is {self.lr}; give a positive learning rate, such as 3e-4.")
        if not (math.isfinite(self.aux_coefficient) and self.aux_coefficient >= 0):
            raise HapaxError(f"aux_coefficient is {self.aux_coefficient}; give 0 or more, such as 1/32.")


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HapaxError(f"{name} is {value!r}; give a whole number of at least {least}.")

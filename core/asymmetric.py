"""Asyrp's asymmetric form: edits that act on the picture a step predicts, not on its direction back to the noise.

A deterministic step from x = a x0 + b noise goes to x' = a' P + b' D: P is the picture that the denoiser predicts and
D, the direction to x_t, the noise that it predicts (DDIM, arXiv 2010.02502, Eq. 12). Asyrp (arXiv 2210.10960) steers P
and leaves D alone. Of that paper only this property was at hand; the rest is our reading: D comes from a second
evaluation without the asymmetric edits (all others act in both), and the sampler is handed the one prediction with
which its own step goes to that x', see `mixed`. Samplers whose step is not of that form are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .errors import HapaxError


@dataclass
class Paths:
    """Which of a call's two evaluations this is, and whether a second one is due; the hook layer makes one for each.

    Attributes:
        plain: this is the evaluation that gives the direction to x_t, so asymmetric edits leave it alone.
        steered: an asymmetric edit acted in this one; edits set it.
    """

    plain: bool = False
    steered: bool = False


def acts(paths: Paths | None) -> bool:
    """Tell whether an asymmetric edit is to act in this evaluation, and note that it does.

    Raises:
        HapaxError: the denoiser is called outside of a sampler, so there is no step with two paths.
    """
    if paths is None:
        raise HapaxError(
            "An asymmetric edit steers one of the two paths of a sampler's step, but the denoiser was called without a "
            "sampler; leave asymmetric off here."
        )
    paths.steered = not paths.plain
    return paths.steered


def mixed(steered: Tensor, plain: Tensor, remaining: float) -> Tensor:
    """The prediction with which a deterministic step goes to a' P(steered) + b' D(plain): [B, ...].

    A step is affine in any prediction: of the noise, of the picture, of v or of a flow. With P and D both from it, a
    change dP of the picture moves x' by a' (1 - r) dP, where r = (b'/a') / (b/a); asymmetrically by a' dP. So it's
    plain + (steered - plain) / (1 - r); rows in which nothing was steered stay bit-equal.

    Args:
        steered, plain: [B, ...] the two evaluations.
        remaining: r, the share of the noise-to-picture ratio b/a that is left after the step; 0 at the last.

    Raises:
        HapaxError: the step doesn't lower the noise.

    >>> import torch
    >>> mixed(torch.tensor([3.0]), torch.tensor([1.0]), remaining=0.5)
    tensor([5.])
    """
    if not 0 <= remaining < 1:
        raise HapaxError(
            f"A step leaves {remaining:g} of the noise, so it has no asymmetric form; "
            "give a schedule in which the noise falls with each step, such as one of fewer steps."
        )
    change = steered.float() - plain.float()
    return (plain.float() + change / (1 - remaining)).to(plain.dtype)


def refused(sampler: str, known: str) -> HapaxError:
    """The error for a sampler whose step hasn't the two paths; `known` are those that have."""
    return HapaxError(
        f"The sampler is {sampler}, whose steps have no direction to x_t that could stay unsteered; "
        f"choose {known}, or turn asymmetric off."
    )

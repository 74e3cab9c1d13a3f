"""The invariance objective: a denoiser should do equally well on every group."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import HapaxError

Risk = Literal["variance", "deviation", "worst"]


def group_losses(loss_per_sample: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return each group's mean loss L_g = sum_n l_n W_ng / sum_n W_ng `[G]` and its mass sum_n W_ng `[G]`.

    Groups without mass have loss 0 there; leave them out by their mass.
    """
    loss, weights = loss_per_sample.flatten(), weights.to(loss_per_sample)
    if len(loss) != len(weights) or weights.ndim != 2:
        raise HapaxError(
            f"There are {len(loss)} losses for weights of shape {tuple(weights.shape)}; "
            "give weights [B, G] with a row per sample."
        )
    mass = weights.sum(0)
    return (loss @ weights) / torch.where(mass > 0, mass, torch.ones_like(mass)), mass


def group_objective(
    loss_per_sample: Tensor,
    weights: Tensor,
    *,
    variance_weight: float,
    risk: Risk = "variance",
    shares: Tensor | None = None,
) -> Tensor:
    """Mean over groups of the group's mean loss, plus a penalty on how much the groups differ (InvDiff).

    Samples must share times and noises between groups, or the groups differ by those. Groups absent from the
    batch are left out.

    Args:
        loss_per_sample: `[B]`.
        weights: `[B, G]`, each sample's share in each group.
        variance_weight: of the penalty; 0 is plain balancing over groups.
        risk: the penalty: the unbiased `variance` over groups (V-REx, arXiv 2003.00688), `deviation`, its root,
            which scales as the losses do; `worst`, the worst group's excess over the mean: at weight 1 the
            objective is the worst group's loss (group DRO, arXiv 1911.08731).
        shares: `[G]` of the groups in the mean, up to a factor; equal ones if None. With the groups' masses in
            the batch the mean is that over samples.

    Returns:
        A scalar.

    >>> losses, weights = torch.tensor([1.0, 1.0, 3.0]), torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    >>> group_objective(losses, weights, variance_weight=0.5)
    tensor(3.)

    Raises:
        HapaxError: mismatched shapes, an unknown risk, or no group with mass.
    """
    losses, mass = group_losses(loss_per_sample, weights)
    losses, held = losses[mass > 0], mass > 0
    if not len(losses):
        raise HapaxError("No group has any weight in this batch; give weights whose rows sum to 1.")
    q = torch.ones_like(losses) if shares is None else shares.to(losses)[held]
    mean = (losses * q).sum() / q.sum()
    if not variance_weight or len(losses) == 1:
        return mean
    if risk == "worst":
        return mean + variance_weight * (losses.max() - mean)
    variance = losses.var()  # unbiased, as in the official code
    if risk == "variance":
        return mean + variance_weight * variance
    if risk == "deviation":
        # Its gradient is infinite where the groups agree.
        return mean + variance_weight * (variance + torch.finfo(variance.dtype).tiny ** 0.5).sqrt()
    raise HapaxError(f"risk is {risk!r}; give 'variance', 'deviation' or 'worst'.")

"""Several directions as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..direction import Direction
from ..errors import HapaxError
from ..fits import check_fits
from ..steering import Scope


def combine(directions: Sequence[Direction], weights: Sequence[float] | None = None, label: str = "") -> Direction:
    """The direction that pushes as all of these together: sum_i w_i scale_i m_i(progress) v_i.

    Where profiles differ, the sum turns on its way; then the result is the mean over progress of the pushes, with
    the profile of what the sum has along it.

    Args:
        directions: of one site and model.
        weights: one each; None is 1 for all. A negative one turns its direction down.
        label: what it is called; "" joins the labels.

    Raises:
        HapaxError: none given, not as many weights, directions of different sites or models, with a pattern, or ones
            that cancel.

    >>> x, y = (Direction(v, "mid", scale=2.0, meta={"label": n}) for v, n in zip(torch.eye(2), "xy"))
    >>> both = combine([x, y], [1.0, -1.0])
    >>> both.vector, round(both.scale, 3), both.meta["label"]
    (tensor([ 0.7071, -0.7071]), 2.828, 'x - y')
    """
    weights = [1.0] * len(directions) if weights is None else list(weights)
    if not directions or len(weights) != len(directions):
        raise HapaxError(
            f"There are {len(directions)} directions and {len(weights)} weights; give one weight for each."
        )
    if any(each.pattern is not None for each in directions):
        raise HapaxError(
            "A direction to combine pushes differently from place to place; apply such directions one after the other."
        )
    first = directions[0]
    known = {key: first.meta[key] for key in ("model", "architecture", "versions") if first.meta.get(key)}
    for each in directions[1:]:
        check_fits("A direction to combine was made", each.made_for, first.made_for, "combine directions of one model")
    places = sorted({place for each in directions for place, _ in each.profile or ()}) or [0.0]
    offsets = [w * each.scale * each.vector.double() for w, each in zip(weights, directions, strict=True)]
    factors = [[Scope(profile=each.profile).factor(place) for place in places] for each in directions]
    pushes = torch.tensor(factors, dtype=torch.float64).T @ torch.stack(offsets)
    total = pushes.mean(0)
    if not float(total.norm()) > 1e-12 * max(float(each.norm()) for each in offsets):
        raise HapaxError("The directions cancel each other; choose weights whose sum points somewhere.")
    along = (pushes @ total / total.square().sum()).tolist()
    profile = list(zip(places, along, strict=True)) if any(each.profile for each in directions) else None
    meta = {**known, "label": label or _label(directions, weights), "source": "combination", "weights": weights}
    return Direction(total, first.site, float(total.norm()), meta, profile)


def _label(directions: Sequence[Direction], weights: Sequence[float]) -> str:
    names = [str(each.meta.get("label") or "direction") for each in directions]
    signed = "".join(f"{' + ' if w >= 0 else ' - '}{name}" for w, name in zip(weights, names, strict=True))
    return signed.removeprefix(" + ").strip()

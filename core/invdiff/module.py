"""The guidance module: a small learned residual at one site that knows the time and the text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from ..errors import HapaxError
from ..sites import Site
from ..steering import Scope
from ..taps import Step, Tap, from_tokens, to_tokens

_TIME_FEATURES = 64
_LARGEST_SHARE = 0.05


@dataclass(frozen=True)
class GuidanceShape:
    """What a guidance module's weights look like and where they fit.

    Attributes:
        site: name of the site, with its kind (`mid`, `eps`, `double.18:update`).
        channels: C of the site's activations.
        context: width D of the text's hidden states, 0 if the model has none.
        hidden: width inside.
        depth: 3 x 3 convolutions, each with twice the dilation of the one before. One spans a middle block's
            few cells; the eps site's grid is larger.
        inputs: channels of the denoiser's own input that are read along, at the eps site only.
    """

    site: str
    channels: int
    context: int
    hidden: int = 128
    depth: int = 1
    inputs: int = 0

    def __post_init__(self) -> None:
        sizes = (self.channels, self.hidden, self.depth)
        if min(sizes) < 1 or min(self.context, self.inputs) < 0:
            raise HapaxError(f"{self} has sizes that can't be; give positive channels, hidden and depth.")

    @property
    def parameters(self) -> int:
        """Trainable parameters of a module of this shape."""
        first = 9 * (self.channels + self.inputs) * self.hidden + self.hidden
        later = (self.depth - 1) * (9 * self.hidden**2 + self.hidden)
        told = (_TIME_FEATURES + 1) * self.hidden + self.context * (self.hidden + 1)
        return first + later + told + 2 * self.hidden * (self.hidden + 1) + (self.hidden + 1) * self.channels

    @classmethod
    def fitting(
        cls,
        site: Site,
        denoiser: nn.Module,
        *,
        context: int,
        inputs: int = 0,
        hidden: int | None = None,
    ) -> GuidanceShape:
        """Choose a shape for a site of a denoiser: the widest of 8, 16, ... 128 within 5 % of its parameters.

        Raises:
            HapaxError: `hidden` was given and makes it larger than that, or not even width 8 fits.
        """
        base, at_eps = sum(p.numel() for p in denoiser.parameters()), site.name == "eps"
        depth, inputs = (3, inputs) if at_eps else (1, 0)
        widths = [hidden] if hidden else range(128, 0, -8)
        for width in widths:
            shape = cls(str(site), site.channels, context, width, depth, inputs)
            if shape.parameters <= _LARGEST_SHARE * base:
                return shape
        raise HapaxError(
            f"A guidance module of width {widths[-1]} at {site} has {shape.parameters} parameters, more than 5 % of "
            f"the denoiser's {base}; choose a smaller width or another site."
        )


class GuidanceModule(nn.Module):
    """InvDiff's guidance (arXiv 2412.08480) as a residual at a site: h' = h + m(progress) * strength * g(h, t, y).

    g is a 3 x 3 convolution, scaled and shifted by what the time and the text say, SiLU, and a 1 x 1 convolution
    that starts at zero; it works in units of h's root mean square, which differs between models by powers of ten.
    So an untrained module and strength 0 leave the model as it is, bit for bit. It is a tap: give it to a backend
    at the site that `shape.site` names.

    The official code puts a second denoiser of the same size beside the first and takes their mean; this reads
    the first one's own activations, at a few percent of the parameters.

    Args:
        shape: sizes and site.
        strength: factor of the residual; 1 is what was trained.
        scope: rows and window of progress in which it acts; rows under the prompt by default.
        seed: of the first weights.

    Attributes:
        meta: JSON-able provenance: `model` (fingerprint), prompts, seeds, training.
    """

    def __init__(
        self, shape: GuidanceShape, *, strength: float = 1.0, scope: Scope | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.shape, self.scope = shape, scope or Scope()
        self.set_strength(strength)
        self.meta: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [shape.channels + shape.inputs, *[shape.hidden] * shape.depth]
            self.trunk = nn.ModuleList(
                Conv2d(widths[i], widths[i + 1], 3, padding=2**i, dilation=2**i) for i in range(shape.depth)
            )
            self.time = Linear(_TIME_FEATURES, shape.hidden)
            self.text = Linear(shape.context, shape.hidden, bias=False) if shape.context else None
            self.film = Linear(shape.hidden, 2 * shape.hidden)
            self.last = Conv2d(shape.hidden, shape.channels, 1)
        self.query = nn.Parameter(torch.zeros(shape.context)) if shape.context else None
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def set_strength(self, strength: float) -> None:
        """Set the factor of the residual."""
        if not math.isfinite(strength):
            raise HapaxError(f"strength is {strength}; give a finite number.")
        self.strength = strength

    def residual(self, h: Tensor, step: Step, rows: Tensor) -> Tensor:
        """Return g for `rows` `[R]` of the batch in float32, as tokens `[R, T, C]`."""
        picked = rows.to(h.device)
        x = self._grid(h, step, picked)
        size = _root_mean_square(x)
        x = x / size
        if self.shape.inputs:
            noisy = self._grid(step.x, step, picked)
            x = torch.cat([x, noisy / _root_mean_square(noisy)], 1)
        scale, shift = self._told(step, rows, h.device)[:, :, None, None].chunk(2, 1)
        for depth, convolution in enumerate(self.trunk):
            x = convolution(x)
            x = F.silu(x * (1 + scale) + shift if depth == 0 else x)
        return to_tokens(size * self.last(x))

    def tap(self, strength: float, scope: Scope) -> Tap:
        """This module's edit at another strength and in another scope; the weights are shared."""
        return lambda h, step: self._edited(h, step, strength, scope)

    def forward(self, h: Tensor, step: Step) -> Tensor:
        """Edit `h`; see `Tap`."""
        return self._edited(h, step, self.strength, self.scope)

    def _edited(self, h: Tensor, step: Step, strength: float, scope: Scope) -> Tensor:
        tokens = to_tokens(h)
        self._check(tokens, step)
        weights = strength * scope.factors(step)
        rows = weights.nonzero().flatten()
        if not len(rows):
            return h
        change = weights[rows, None, None].to(h.device) * self.residual(h, step, rows)
        mask = scope.token_mask(step.grid, h.device)
        index = rows.to(h.device)
        edited = tokens[index].float() + (change if mask is None else mask * change)
        return from_tokens(tokens.index_copy(0, index, edited.to(h.dtype)), h)

    def _grid(self, h: Tensor, step: Step, rows: Tensor) -> Tensor:
        """Rows of activations in float32 as `[R, C, H, W]`, tokens laid out on their grid."""
        h = h[rows].float()
        return h if h.ndim == 4 else h.transpose(1, 2).unflatten(2, step.grid)

    def _told(self, step: Step, rows: Tensor, device: torch.device) -> Tensor:
        """Scale and shift `[R, 2 hidden]` from the time and the text."""
        told = self.time(_time_features(step.progress[rows]).to(device))
        if self.text is not None:
            assert step.context is not None
            assert self.query is not None
            context = step.context[rows.to(step.context.device)].to(device, torch.float32)
            attention = (context @ self.query / self.shape.context**0.5).softmax(1)
            told = told + self.text((attention[:, None] @ context).squeeze(1))
        return self.film(F.silu(told))

    def _check(self, tokens: Tensor, step: Step) -> None:
        shape, text = self.shape, 0 if step.context is None else step.context.shape[-1]
        if tokens.shape[-1] != shape.channels or (shape.context and text != shape.context):
            raise HapaxError(
                f"The guidance module fits {shape.channels} channels at {shape.site} and text of width "
                f"{shape.context}, but was called with {tokens.shape[-1]} and {text}; use it at its site in the "
                "model that it was made for."
            )


def _root_mean_square(x: Tensor) -> Tensor:
    """Of each row of `[R, C, H, W]`, never 0: `[R, 1, 1, 1]`."""
    return (x.square().mean((1, 2, 3), keepdim=True) + 1e-12).sqrt()


def _time_features(progress: Tensor) -> Tensor:
    """Sines and cosines of progress `[B]` at 32 frequencies from half a turn to 32 turns: `[B, 64]`."""
    frequencies = math.pi * torch.logspace(0, 6, _TIME_FEATURES // 2, base=2)
    angles = progress[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)

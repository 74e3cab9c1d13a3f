"""The loss of a training as a picture, drawn again and again while it goes on."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..core.contact_sheet import ACCENT, FAINT, MARGIN, SOFT, write
from .plots import GAP, HEAD, WIDTH, Page

_HEIGHT, _AXIS = 330, 90
_KEPT = 0.95


class LossPlot:
    """Loss by step, as it comes and smoothed.

    Args:
        steps: of the whole training.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.points: list[tuple[int, float, float]] = []

    def add(self, step: int, loss: float) -> None:
        """Note the loss of a step; the smoothed one is a running mean that starts without a lean."""
        weight = max(1 - _KEPT, 1 / (len(self.points) + 1))
        before = self.points[-1][2] if self.points else loss
        self.points.append((step, loss, before + weight * (loss - before)))

    def image(self) -> Image.Image:
        """The picture for a live preview."""
        return self._page().picture

    def picture(self) -> Tensor:
        """The picture as uint8 [H, W, 3]."""
        return self._page().pixels()

    def _page(self) -> Page:
        last = self.points[-1] if self.points else None
        said = "no step was left to take" if last is None else f"step {last[0]:,} of {self.steps:,}, loss {last[2]:.4f}"
        page = Page("Training InvDiff guidance", said, MARGIN + HEAD + _HEIGHT + GAP + MARGIN)
        x, y = page.panel(_HEIGHT)
        if last is not None:
            self._curves(page, x + _AXIS, y)
        return page

    def _curves(self, page: Page, left: int, top: int) -> None:
        width, height = WIDTH - MARGIN - 18 - left, _HEIGHT - 60
        values = torch.tensor([loss for _, loss, _ in self.points])
        # A few steps of strong noise would hide all others.
        low, high = float(values.min()), float(torch.quantile(values, 0.98)) if len(values) > 1 else float(values[0])
        high = max(high, low + 1e-9)

        def place(step: int, value: float) -> tuple[float, float]:
            share = min(1.0, (value - low) / (high - low))
            return left + width * step / self.steps, top + height * (1 - share)

        for value in (low, (low + high) / 2, high):
            _, y = place(0, value)
            page.draw.line((left, y, left + width, y), FAINT)
            write(page.draw, (left - _AXIS + 10, y - 9), f"{value:.4f}", 16, SOFT, _AXIS - 20)
        for step in (0, self.steps // 2, self.steps):
            write(page.draw, (place(step, low)[0] - 20, top + height + 12), f"{step:,}", 16, SOFT, 90)
        page.draw.line([place(step, loss) for step, loss, _ in self.points], FAINT, 1)
        page.draw.line([place(step, smooth) for step, _, smooth in self.points], ACCENT, 3)

"""Which features are in given pictures, where and how strongly: what an autoencoder says of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .contact_sheet import Row, draw_sheet, laid_over
from .feature_set import FeatureSet, aligned
from .sae import MatryoshkaSAE

# Pictures on a sheet; more are in the heatmaps.
SHOWN = 8


@dataclass(frozen=True, eq=False)
class Active:
    """A latent in B pictures.

    Attributes:
        name: the feature's, or the latent's number.
        latent: index in the SAE.
        badge: the feature's number in its list, or nothing.
        level: [B] image-level activations, at the step that shows most, as findings have them.
        heat: [B, h, w] activations at the positions, the mean over steps.
        usual: image-level activation of the feature's exemplars, their mean; None for a latent without.
        threshold: the weakest level that counts as firing; 0 for a latent without exemplars.
    """

    name: str
    latent: int
    badge: str
    level: Tensor
    heat: Tensor
    usual: float | None = None
    threshold: float = 0.0

    @property
    def fires(self) -> Tensor:
        """[B] whether it counts as there."""
        return (self.level >= self.threshold) & (self.level > 0)

    def shades(self) -> Tensor:
        """The heat in [0, 1], one scale for all pictures: [B, h, w]."""
        return self.heat / self.heat.max().clamp_min(1e-30)

    def strength(self) -> str:
        """The mean level in words."""
        level = float(self.level.mean())
        usual = f", {100 * level / self.usual:.0f} % of its exemplars" if self.usual else ""
        return f"activation {level:.3g}{usual}"


def active_latents(sae: MatryoshkaSAE, tokens: Tensor, grid: tuple[int, int], count: int) -> list[Active]:
    """The most active latents of the coarse prefix, most active first; those that are silent are left out.

    Args:
        sae: of the site; it stays on its device.
        tokens: [B, S, P, C] of pictures at S steps and all P positions.
        grid: (h, w) of the positions.
        count: how many at most.
    """
    level, z = _levels(sae, tokens, torch.arange(sae.prefix_sizes[0]))
    order = level.mean(0).argsort(descending=True, stable=True)[:count].tolist()
    found = [Active(f"latent {i}", i, "", level[:, i], z[..., i].unflatten(1, grid)) for i in order]
    return [each for each in found if bool(each.fires.any())]


def active_features(sae: MatryoshkaSAE, tokens: Tensor, grid: tuple[int, int], features: FeatureSet) -> list[Active]:
    """The features of a set, those most like their exemplars first."""
    listed = features.features
    level, z = _levels(sae, tokens, torch.tensor([f.latent for f in listed], dtype=torch.long))
    found = [
        Active(
            f.name,
            f.latent,
            str(f.number),
            level[:, i],
            z[..., i].unflatten(1, grid),
            sum(f.activations) / len(f.activations),
            f.threshold,
        )
        for i, f in enumerate(listed)
    ]
    return sorted(found, key=lambda each: -float(each.level.mean()) / (each.usual or 1.0))


def active_table(found: Sequence[Active]) -> str:
    """Names, latents, whether they are there and how strongly, as plain text."""
    if not found:
        return "No feature is active in these pictures."
    pictures = len(found[0].level)
    rows = [("", "feature", "there", "latent", "activation")]
    for each in found:
        there = int(each.fires.sum())
        said = f"in {there} of {pictures}" if pictures > 1 else "yes" if there else "no"
        rows.append((each.badge, each.name, said, str(each.latent), f"{float(each.level.mean()):.3g}"))
    return "\n".join(aligned(rows))


def activity_sheet(pictures: Tensor, found: Sequence[Active]) -> Tensor:
    """The pictures uint8 [B, H, W, 3], and one row a feature with its heatmaps laid over: uint8 [h, w, 3]."""
    shown = pictures[:SHOWN]
    rows = [Row("the picture" if len(pictures) == 1 else "the pictures", [], list(shown))]
    for each in found:
        there = "there" if bool(each.fires.any()) else "not there"
        lines = [each.strength(), there if each.usual else ""]
        rows.append(Row(each.name, lines, laid_over(shown, each.shades()[:SHOWN]), badge=each.badge))
    count = f"{len(found)} features" if len(found) != 1 else "1 feature"
    return draw_sheet("What the model sees", count, rows, columns=len(shown))


@torch.no_grad()
def _levels(sae: MatryoshkaSAE, tokens: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Image-level activations [B, R], and activations at the positions [B, P, R]; picture by picture, to fit."""
    latents = latents.to(sae.W_enc.device)
    levels, places = [], []
    for x in tokens:
        z = sae.encode_rows(x.flatten(0, 1).to(sae.W_enc), latents).unflatten(0, x.shape[:2])
        levels.append(z.mean(1).amax(0))
        places.append(z.mean(0))
    return torch.stack(levels).cpu(), torch.stack(places).cpu()

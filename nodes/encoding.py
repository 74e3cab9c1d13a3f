"""Encode with SAE: which features a picture has, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.active import Active, active_features, active_latents, active_table, activity_sheet
from ..core.collect import thumbnail
from ..core.errors import HapaxError
from ..core.exemplars import resized
from ..core.sae import MatryoshkaSAE
from ..core.sites import Site
from ..core.taps import Recorder, Step
from . import devices
from .autoencoder import LOADER, SEARCH
from .comfy_taps import add_tap
from .fitting import fitting_site
from .probing import probe
from .schema import FEATURES, SAE, io, progress, schema, to_image, to_pictures, widget
from .widgets import seed_widget

# Where the picture is made and not yet polished, if the autoencoder doesn't say where it was trained.
DEFAULT_LEVELS = (0.3, 0.5, 0.7)


class EncodeWithSAE(io.ComfyNode):
    """Encode with SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "EncodeWithSAE",
            "Encode with SAE",
            "autoencoder",
            description="Which features are in this picture, and where? The picture is noised, the model looks at it "
            "once at each noise level, and the autoencoder says what the model sees. Nothing is sampled.",
            search_aliases=[*SEARCH, "which features", "analyze picture", "heatmap"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the autoencoder was made with."),
                io.Conditioning.Input("positive", tooltip="What the picture shows, in words: its prompt."),
                SAE.Input("sae", tooltip="The autoencoder, from Train SAE or Load SAE."),
                FEATURES.Input(
                    "features",
                    optional=True,
                    tooltip="From Find Rare Features: look for these, by their names. Without them the most active "
                    "latents are listed.",
                ),
                io.Image.Input("image", optional=True, tooltip="The picture, or several; needs the VAE too."),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the picture, or decodes the latent to show it."),
                io.Latent.Input("latent", optional=True, tooltip="The picture as a latent, in place of an image."),
                widget(
                    io.String,
                    "feature",
                    default="",
                    tooltip="Whose heatmap the mask is: a number or name in the list. Empty takes the most active one.",
                ),
                widget(
                    io.Int,
                    "listed",
                    default=8,
                    min=1,
                    max=100,
                    tooltip="How many features to list at most.",
                ),
                seed_widget("Of the noise that is laid over the picture."),
                widget(
                    io.String,
                    "noise_levels",
                    default="",
                    advanced=True,
                    tooltip="When to look: numbers from 0 (pure noise) to 1 (clean), as in 0.4, 0.6, 0.8. Empty "
                    "takes the steps that the autoencoder was trained on.",
                ),
            ],
            outputs=[
                io.Image.Output("IMAGE", display_name="sheet", tooltip="The picture with a heatmap for each feature."),
                io.Mask.Output("MASK", display_name="heatmap", tooltip="Where the feature is, 0 to 1, one a picture."),
                io.String.Output("TABLE", display_name="table", tooltip="Which features are active, and how strongly."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list,
        sae: MatryoshkaSAE,
        features: Any = None,
        image: Tensor | None = None,
        vae: Any = None,
        latent: dict[str, Any] | None = None,
        feature: str = "",
        listed: int = 8,
        seed: int = 0,
        noise_levels: str = "",
    ) -> io.NodeOutput:
        """Look, encode, show."""
        site = fitting_site(model, {**sae.meta, "channels": sae.d_in}, "The autoencoder was made", LOADER)
        if features is not None and not _same(features.trained.sae, sae):
            raise HapaxError(
                "The features were found with another autoencoder; wire the sae that Find Rare Features puts out."
            )
        samples, pictures = _latent(image, vae, latent)
        small = torch.stack([thumbnail(picture) for picture in to_pictures(pictures)])
        levels = _numbers(noise_levels) or sae.meta.get("steps") or DEFAULT_LEVELS
        tokens, grid = _tokens(model, site, positive, samples, levels, seed)
        devices.load(sae)
        found = active_features(sae, tokens, grid, features) if features else active_latents(sae, tokens, grid, listed)
        found = found[:listed]
        sheet = to_image([activity_sheet(small, found)])
        return io.NodeOutput(sheet, _heatmap(found, feature, pictures), active_table(found))


def _same(one: MatryoshkaSAE, other: MatryoshkaSAE) -> bool:
    return one is other or torch.equal(one.W_dec.cpu(), other.W_dec.cpu())


def _latent(image: Tensor | None, vae: Any, latent: dict[str, Any] | None) -> tuple[Tensor, Tensor]:
    """The latent to look at, and the IMAGE [B, H, W, 3] to show it by."""
    if image is not None and latent is None and vae is not None:
        return vae.encode(image[..., :3]), image
    if image is not None or latent is None:
        raise HapaxError("Wire either an image and the VAE, or a latent (with the VAE, to see the picture).")
    samples = latent["samples"]
    if vae is not None:
        return samples, vae.decode(samples)
    return samples, torch.full((len(samples), samples.shape[-2] * 8, samples.shape[-1] * 8, 3), 0.5)


def _tokens(
    model: Any, site: Site, positive: list, samples: Tensor, levels: Sequence[float], seed: int
) -> tuple[Tensor, tuple[int, int]]:
    """Tokens [B, S, P, C] at the noise levels, and the grid of the positions."""
    recorder, report, grid = Recorder(levels), progress(len(levels)), [(1, 1)]

    def tap(h: Tensor, step: Step) -> None:
        grid[0] = max(grid[0], step.grid)
        recorder(h, step)

    probe(add_tap(model, site, tap), positive, samples, levels, seed, report)
    report(len(levels))
    return torch.stack([recorder.take(i)[0] for i in range(len(samples))]), grid[0]


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number <= 1 for number in numbers):
        raise HapaxError(f"noise_levels is {text!r}; give numbers from 0 to 1, as in 0.4, 0.6, 0.8.")
    return numbers


def _heatmap(found: Sequence[Active], feature: str, pictures: Tensor) -> Tensor:
    """The MASK [B, H, W] of one of the features, the first unless another is named."""
    shape = pictures.shape[1:3]
    if not found:
        return torch.zeros(len(pictures), *shape)
    wanted = feature.strip().casefold()
    hits = [each for each in found if wanted in ("", each.badge, each.name.casefold())]
    if not hits:
        listed = "; ".join(f"{each.badge} {each.name}".strip() for each in found)
        raise HapaxError(f"{feature!r} is not among the active features; give one of these: {listed}.")
    return resized(hits[0].shades(), (shape[0], shape[1]))


NODES = [EncodeWithSAE]

"""Nodes that make, keep and use sparse autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..core.activation_reader import ActivationReader
from ..core.active import Active, active_features, active_latents, active_table, activity_sheet
from ..core.collect import thumbnail
from ..core.durable import free_path
from ..core.errors import HapaxError
from ..core.exemplars import resized
from ..core.findings import SAESize, train_on
from ..core.sae import MatryoshkaSAE, describe_sae, load_sae, load_saelens, save_sae
from ..core.sites import Site
from ..core.taps import Recorder, Step
from . import devices, folders
from .comfy_taps import add_tap
from .fitting import fitting_site
from .probing import probe
from .schema import ACTIVATIONS, FEATURES, SAE, io, progress, schema, to_image, to_pictures, ui, widget

KIND = "sae"
LOADER = "use the model that it was made with, or turn on any_checkpoint in Load SAE"
# Where the picture is made and not yet polished, if the autoencoder doesn't say where it was trained.
DEFAULT_LEVELS = (0.3, 0.5, 0.7)
_SEARCH = ["hapax", "sae", "sparse autoencoder"]


def train(store: ActivationReader, samples: list[int], size: SAESize, seed: int) -> MatryoshkaSAE:
    """Train an autoencoder on pictures of a store, on ComfyUI's device; it comes back on the offload device."""
    steps, positions, channels = store.layout.shapes()["tokens"]
    config = size.config(channels, len(samples) * steps * positions, seed)
    device = comfy.model_management.get_torch_device()
    # Weights, gradients and two moments of both matrices in fp32, and the activations of a batch.
    needed = 4 * (8 * config.d_sae * channels + 6 * config.d_sae * config.batch_size)
    comfy.model_management.free_memory(needed, device)
    expected = config.epochs * (len(samples) * 9 // 10) * steps * positions // config.batch_size
    report = progress(expected)

    def advance(done: int, total: int | None, _: dict[str, Any]) -> None:
        report(min(done, expected))

    trained = train_on(store, samples, config, progress=advance, device=device)
    devices.put_back(trained.sae)
    trained.sae.meta |= {**store.provenance, "pictures": len(samples), "metrics": trained.metrics}
    return trained.sae


class TrainSAE(io.ComfyNode):
    """Train SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "TrainSAE",
            "Train SAE",
            "autoencoder",
            description="Train a sparse autoencoder on recorded activations. It takes the model's inner state apart "
            "into many features of which only few are active at a time; Find Rare Features looks among them.",
            search_aliases=[*_SEARCH, "dictionary learning", "matryoshka", "train features"],
            inputs=[
                ACTIVATIONS.Input(
                    "activations", tooltip="What was recorded of many pictures, from Harvest Activations."
                ),
                widget(
                    io.Int,
                    "latents",
                    default=0,
                    min=0,
                    max=1 << 20,
                    tooltip="How many features the autoencoder can tell apart. 0 takes 16 for each channel of the "
                    "site, which is what the RAIGen paper uses.",
                ),
                widget(
                    io.Int,
                    "epochs",
                    default=5,
                    min=1,
                    max=1000,
                    tooltip="How often it sees each recorded token. More takes longer and helps when there are few "
                    "pictures.",
                ),
                widget(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="Of the first weights and the order of the tokens: the same seed gives the same "
                    "autoencoder.",
                ),
                widget(
                    io.Int,
                    "k",
                    default=32,
                    min=1,
                    max=1 << 16,
                    advanced=True,
                    tooltip="How many features may be active in one token, on average.",
                ),
                widget(
                    io.Int,
                    "coarse",
                    default=0,
                    min=0,
                    max=1 << 20,
                    advanced=True,
                    tooltip="How many of the latents form the coarse part, which alone already describes a picture and "
                    "is what is searched for rare features. 0 takes a tenth.",
                ),
            ],
            outputs=[
                SAE.Output("SAE", display_name="sae", tooltip="The autoencoder; save it with Save SAE."),
                io.String.Output("INFO", display_name="info", tooltip="What it is and how well it explains the model."),
            ],
        )

    @classmethod
    def execute(
        cls, activations: ActivationReader, latents: int, epochs: int, seed: int, k: int, coarse: int
    ) -> io.NodeOutput:
        """Train."""
        samples = list(range(len(activations)))
        sae = train(activations, samples, SAESize(latents or None, coarse or None, k, epochs), seed)
        return io.NodeOutput(sae, describe_sae(sae))


class LoadSAE(io.ComfyNode):
    """Load SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadSAE",
            "Load SAE",
            "autoencoder",
            description="Load a sparse autoencoder from models/hapax: a file of Hapax, or a folder of SAELens "
            "(cfg.json and sae_weights.safetensors).",
            search_aliases=[*_SEARCH, "saelens"],
            inputs=[
                widget(
                    io.Combo,
                    "sae_name",
                    options=folders.model_files(KIND),
                    tooltip="A file in models/hapax/sae. Of a SAELens folder choose its sae_weights.safetensors.",
                ),
                widget(
                    io.String,
                    "site",
                    default="",
                    advanced=True,
                    tooltip="Where in the model it reads, as in mid or double.9. Leave it empty: files of Hapax know. "
                    "Only an autoencoder of SAELens has to be told.",
                ),
                widget(
                    io.Int,
                    "k",
                    default=0,
                    min=0,
                    max=1 << 16,
                    advanced=True,
                    tooltip="How many latents are active in a token, on average. Leave it 0: files of Hapax know. "
                    "Only an autoencoder of SAELens has to be told.",
                ),
                widget(
                    io.Boolean,
                    "any_checkpoint",
                    default=False,
                    tooltip="Allow it on other checkpoints of the same family than the one it was trained on, such "
                    "as a fine-tune. What it says of them is less certain.",
                ),
            ],
            outputs=[SAE.Output("SAE", display_name="sae", tooltip="The autoencoder.")],
        )

    @classmethod
    def fingerprint_inputs(cls, sae_name: str, **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(sae_name)

    @classmethod
    def execute(cls, sae_name: str, site: str, k: int, any_checkpoint: bool) -> io.NodeOutput:
        """Load."""
        path = folders.model_file(sae_name)
        # Weights loaded in inference mode could never meet a gradient.
        with torch.inference_mode(False):
            sae = _load(path, k or None)
        if site.strip():
            sae.meta["site"] = site.strip()
        if any_checkpoint:
            sae.meta.pop("model", None)
        return io.NodeOutput(sae)


def _load(path: Path, k: int | None) -> MatryoshkaSAE:
    if (path.parent / "cfg.json").is_file():
        return load_saelens(path.parent, k=k)
    return load_sae(path)


class SaveSAE(io.ComfyNode):
    """Save SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SaveSAE",
            "Save SAE",
            "autoencoder",
            description="Save a sparse autoencoder to models/hapax/sae, with what it was made from.",
            search_aliases=_SEARCH,
            is_output_node=True,
            inputs=[
                SAE.Input("sae", tooltip="The autoencoder to save."),
                widget(
                    io.String,
                    "filename",
                    default="my_sae",
                    tooltip="Name of the file in models/hapax/sae; folders with / are made.",
                ),
                widget(
                    io.Boolean,
                    "overwrite",
                    default=False,
                    tooltip="Replace a file of that name. Off, a number is added to the new file's name instead.",
                ),
            ],
            outputs=[io.String.Output("FILE", display_name="saved_as", tooltip="The file, as Load SAE lists it.")],
        )

    @classmethod
    def execute(cls, sae: MatryoshkaSAE, filename: str, overwrite: bool) -> io.NodeOutput:
        """Save."""
        path = folders.new_model_file(filename, KIND)
        path = path if overwrite else free_path(path)
        save_sae(sae, path)
        name = folders.name_of(path)
        return io.NodeOutput(name, ui=ui.PreviewText(f"saved as {name}"))


class SAEInfo(io.ComfyNode):
    """SAE Info."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SAEInfo",
            "SAE Info",
            "autoencoder",
            description="Say what a sparse autoencoder is made for and how good it is.",
            search_aliases=_SEARCH,
            is_output_node=True,
            inputs=[SAE.Input("sae", tooltip="The autoencoder to describe.")],
            outputs=[
                io.String.Output("INFO", display_name="info", tooltip="Size, site, quality and origin, one a line."),
                io.Int.Output("LATENTS", display_name="latents", tooltip="How many features it can tell apart."),
                io.Int.Output("CHANNELS", display_name="channels", tooltip="Channels of the site that it reads."),
            ],
        )

    @classmethod
    def execute(cls, sae: MatryoshkaSAE) -> io.NodeOutput:
        """Describe."""
        text = describe_sae(sae)
        return io.NodeOutput(text, sae.d_sae, sae.d_in, ui=ui.PreviewText(text))


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
            search_aliases=[*_SEARCH, "which features", "analyze picture", "heatmap"],
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
                widget(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Of the noise that is laid over the picture.",
                ),
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


NODES = [TrainSAE, LoadSAE, SaveSAE, SAEInfo, EncodeWithSAE]

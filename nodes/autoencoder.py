"""Nodes that make, keep and describe sparse autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..core.activation_reader import ActivationReader
from ..core.findings import SAESize, train_on
from ..core.sae import MatryoshkaSAE, describe_sae, load_sae, load_saelens, save_sae
from . import devices, folders
from .schema import ACTIVATIONS, SAE, io, progress, schema, ui, widget
from .widgets import (
    EXACT,
    any_checkpoint_widget,
    content_widget,
    save_model_file,
    save_widgets,
    saved_output,
    seed_widget,
)

KIND = "sae"
LOADER = "use the model that it was made with, or turn on any_checkpoint in Load SAE"
SEARCH = ["hapax", "sae", "sparse autoencoder"]


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
            search_aliases=[*SEARCH, "dictionary learning", "matryoshka", "train features"],
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
                seed_widget(
                    "Of the first weights and the order of the tokens: the same seed gives the same autoencoder.",
                    most=EXACT,
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
            search_aliases=[*SEARCH, "saelens"],
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
                any_checkpoint_widget("trained on", "What it says of them is less certain."),
                content_widget(),
            ],
            outputs=[SAE.Output("SAE", display_name="sae", tooltip="The autoencoder.")],
        )

    @classmethod
    def validate_inputs(cls, sae_name: str | None = None, content: str | None = "") -> bool | str:
        """Say what is missing."""
        return folders.valid(folders.model_file, sae_name, content)

    @classmethod
    def fingerprint_inputs(cls, sae_name: str, content: str = "", **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(sae_name, content)

    @classmethod
    def execute(cls, sae_name: str, site: str, k: int, any_checkpoint: bool, content: str = "") -> io.NodeOutput:
        """Load."""
        path = folders.model_file(sae_name, content)
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
            search_aliases=SEARCH,
            is_output_node=True,
            inputs=[
                SAE.Input("sae", tooltip="The autoencoder to save."),
                *save_widgets(KIND, "my_sae"),
            ],
            outputs=[saved_output("Load SAE")],
        )

    @classmethod
    def execute(cls, sae: MatryoshkaSAE, filename: str, overwrite: bool) -> io.NodeOutput:
        """Save."""
        return save_model_file(KIND, filename, overwrite, lambda path: save_sae(sae, path))


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
            search_aliases=SEARCH,
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


NODES = [TrainSAE, LoadSAE, SaveSAE, SAEInfo]

"""Nodes that judge: the CLIP model that scores and names features, and the audit that is kept of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.durable import free_path
from ..core.embed import ClipEmbedder
from ..core.emoji import CREDITS, load_clip
from ..core.emoji import phrases as emoji_phrases
from ..core.errors import HapaxError
from ..core.feature_audit import write_feature_audit
from ..core.feature_set import FeatureSet
from ..core.labels import default_phrases
from . import devices, folders
from .schema import BIAS, CLIP_SCORER, FEATURES, io, schema, ui, widget

BUILT_IN = "built in (emoji)"
# Those of open_clip whose weights people have; any other name of it can't be chosen.
ARCHITECTURES = (
    "ViT-L-14",
    "ViT-L-14-quickgelu",
    "ViT-L-14-336",
    "ViT-L-14-336-quickgelu",
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-B-16-quickgelu",
    "ViT-H-14",
    "ViT-g-14",
    "ViT-bigG-14",
    "ViT-B-16-SigLIP",
    "ViT-L-16-SigLIP-256",
    "ViT-SO400M-14-SigLIP",
    "ViT-SO400M-14-SigLIP-384",
)
_KIND = "clip"


class Scorer:
    """A CLIP model that ComfyUI loads when it is needed, and the phrases that suit it."""

    def __init__(self, embedder: ClipEmbedder, phrases: Sequence[str], credits: Sequence[str] = ()) -> None:
        self.embedder, self.phrases, self.credits = embedder, tuple(phrases), tuple(credits)
        self.name, self.fingerprint = embedder.name, embedder.fingerprint

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings [n, E] of PIL pictures, on the CPU."""
        devices.load(self.embedder.model)
        return self.embedder.images(pictures)

    def pixels(self, pictures: Tensor) -> Tensor:
        """Unit embeddings [n, E] of pictures uint8 [n, H, W, 3], on the CPU."""
        return self.images([Image.fromarray(each.numpy()) for each in pictures])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [n, E] of texts, on the CPU."""
        devices.load(self.embedder.model)
        return self.embedder.texts(texts)


class LoadCLIPScorer(io.ComfyNode):
    """Load CLIP Scorer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        files = [name for name in folders.model_files(_KIND) if name != folders.NOTHING]
        return schema(
            "LoadCLIPScorer",
            "Load CLIP Scorer",
            "features",
            description="Load the CLIP model that compares pictures and names features. It is an open_clip model, not "
            "the text encoder that a checkpoint has. Put its .safetensors file in models/hapax/clip.",
            search_aliases=["hapax", "open_clip", "clip score", "clip vision"],
            inputs=[
                widget(
                    io.Combo,
                    "weights",
                    options=[BUILT_IN, *files],
                    default=BUILT_IN,
                    tooltip="A file in models/hapax/clip. The built-in one knows only the emoji of the demo model.",
                ),
                widget(
                    io.Combo,
                    "architecture",
                    options=list(ARCHITECTURES),
                    default=ARCHITECTURES[0],
                    tooltip="What the file holds, by open_clip's name for it. OpenAI's own weights need quickgelu.",
                ),
            ],
            outputs=[CLIP_SCORER.Output("SCORER", display_name="scorer", tooltip="For Find Rare Features.")],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        """Say what is missing."""
        return weights == BUILT_IN or folders.valid(folders.model_file, weights)

    @classmethod
    def fingerprint_inputs(cls, weights: str, **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(weights)

    @classmethod
    def execute(cls, weights: str, architecture: str) -> io.NodeOutput:
        """Load."""
        try:
            with torch.inference_mode(False):
                return io.NodeOutput(_scorer(weights, architecture))
        except ImportError as error:
            raise HapaxError(
                f"The CLIP scorer needs the package {error.name}; install it in ComfyUI's Python with "
                "pip install open_clip_torch, and start ComfyUI again."
            ) from error


def _scorer(weights: str, architecture: str) -> Scorer:
    if weights == BUILT_IN:
        return Scorer(load_clip(), emoji_phrases(), CREDITS)
    return Scorer(ClipEmbedder.load(architecture, folders.model_file(weights)), default_phrases())


class SaveAudit(io.ComfyNode):
    """Save Audit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SaveAudit",
            "Save Audit",
            "features",
            description="Save what was found for others to check: audit.json with all numbers, report.html that opens "
            "in any browser without a network, the pictures, the autoencoder and this workflow, in output/hapax.",
            search_aliases=["hapax", "report", "export audit", "save report"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                widget(
                    io.String,
                    "folder",
                    default="audit",
                    tooltip="Name of the folder in output/hapax. If it is there, a number is added.",
                ),
                widget(
                    io.String,
                    "model_name",
                    default="",
                    tooltip="What the report calls the model. Empty takes the family that ComfyUI sees in it.",
                ),
                BIAS.Input(
                    "bias", optional=True, tooltip="From Bias Score: what guidance changed, as a section of the report."
                ),
            ],
            outputs=[
                io.String.Output("REPORT", display_name="report", tooltip="Path of report.html."),
            ],
        )

    @classmethod
    def execute(cls, features: FeatureSet, folder: str, model_name: str, bias: Any = None) -> io.NodeOutput:
        """Write."""
        place = _empty(folders.output_folder(folder))
        workflow = (cls.hidden.extra_pnginfo or {}).get("workflow")
        prompt = cls.hidden.prompt
        provenance: dict[str, Any] = {
            "reproduce": "Open workflow.json, which lies beside this report, in ComfyUI with Hapax and run it.",
        }
        if prompt is not None:
            provenance["prompt_sha256"] = hashlib.sha256(_plain(prompt)).hexdigest()
        files = {"workflow.json": workflow, "prompt.json": prompt}
        report = write_feature_audit(
            features,
            place,
            model_name=model_name.strip(),
            provenance=provenance,
            files={name: _plain(content, 1) for name, content in files.items() if content is not None},
            invdiff=None if bias is None else bias.section(),
            credits=CREDITS if features.settings.get("clip", {}).get("name") == "hapax-emoji" else (),
        )
        return io.NodeOutput(str(report), ui=ui.PreviewText(f"report: {report}"))


def _empty(folder: Path) -> Path:
    """The folder, or one with a number behind its name if something lies in it."""
    if any(folder.iterdir()):
        folder = free_path(folder)
        folder.mkdir()
    return folder


def _plain(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, sort_keys=indent is None, indent=indent).encode()


NODES = [LoadCLIPScorer, SaveAudit]

"""Nodes that find rare features and show them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.activation_reader import ActivationReader
from ..core.collect import batches
from ..core.contact_sheet import contact_sheet, feature_sheet
from ..core.directions import CaptionIndex
from ..core.errors import HapaxError
from ..core.exemplars import resized
from ..core.feature_set import FeatureSet
from ..core.findings import SAESize, find_features
from ..core.fits import check_fits
from ..core.naming import Namer
from ..core.sae import MatryoshkaSAE, TrainedSAE
from . import devices
from .autoencoder import LOADER, train
from .embeddings import lines_of
from .listing import feature_ui
from .schema import ACTIVATIONS, CLIP_SCORER, FEATURES, INDEX, SAE, io, progress, schema, to_image, widget
from .scoring import Scorer
from .widgets import EXACT, feature_widget, seed_widget

_SEARCH = ["hapax", "rare", "feature", "minority", "bias", "audit"]
# Pictures between two movements of the progress bar.
_EMBEDDED = 64


class FindRareFeatures(io.ComfyNode):
    """Find Rare Features."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "FindRareFeatures",
            "Find Rare Features",
            "features",
            description="What does the model know about this prompt but almost never shows? Takes the recorded "
            "pictures apart into features, counts how many pictures show each, and lists those that are rare and "
            "really look different, by the minority score of the RAIGen paper.",
            search_aliases=[*_SEARCH, "hidden features", "contact sheet", "prevalence"],
            inputs=[
                ACTIVATIONS.Input("activations", tooltip="What was recorded of many pictures of one prompt."),
                CLIP_SCORER.Input("scorer", tooltip="Tells how far a feature's pictures differ, and names it."),
                SAE.Input(
                    "sae",
                    optional=True,
                    tooltip="An autoencoder of the same model and site. Without one, one is trained on these pictures.",
                ),
                widget(
                    io.String,
                    "prompt",
                    default="",
                    tooltip="Which of the recorded prompts to look at. Empty if there is only one. Where the recording "
                    "doesn't say its prompt, give it here: it helps to name features.",
                ),
                widget(io.Int, "listed", default=10, min=1, max=100, tooltip="How many features to list at most."),
                widget(
                    io.Float,
                    "rare",
                    default=0.15,
                    min=0.001,
                    max=1.0,
                    step=0.01,
                    tooltip="Largest share of the pictures that show a listed feature: 0.15 is 15 in 100.",
                ),
                widget(
                    io.Int,
                    "min_pictures",
                    default=5,
                    min=5,
                    max=100000,
                    tooltip="On fewer pictures nothing is called rare, because it may be chance.",
                ),
                seed_widget(
                    "Of the random pictures that features are compared with, and of training, if there is any.",
                    most=EXACT,
                ),
                widget(
                    io.Combo,
                    "normalize",
                    options=["rank", "minmax"],
                    default="rank",
                    advanced=True,
                    tooltip="How distance and frequency are brought to one scale: by rank, which no outlier upsets, or "
                    "from smallest to largest as in the paper.",
                ),
                widget(
                    io.String,
                    "phrases",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Candidate names, one a line. Empty takes the list that comes with the CLIP scorer.",
                ),
                INDEX.Input(
                    "index",
                    optional=True,
                    tooltip="From Build Caption Index: names features by what the model itself does under captions, in "
                    "place of CLIP. Build it with this prompt among its prompts.",
                ),
            ],
            outputs=[
                FEATURES.Output(
                    "FEATURES",
                    display_name="features",
                    tooltip="The features, for Show Feature, Amplify Feature and others.",
                ),
                io.Image.Output("IMAGE", display_name="contact_sheet", tooltip="One row a feature, with its pictures."),
                io.String.Output("TABLE", display_name="table", tooltip="The list as text, with intervals."),
                SAE.Output("SAE", display_name="sae", tooltip="The autoencoder that was used."),
            ],
        )

    @classmethod
    def execute(
        cls,
        activations: ActivationReader,
        scorer: Scorer,
        prompt: str,
        listed: int,
        rare: float,
        min_pictures: int,
        seed: int,
        normalize: Any,
        phrases: str,
        sae: MatryoshkaSAE | None = None,
        index: CaptionIndex | None = None,
    ) -> io.NodeOutput:
        """Find, name, show."""
        store = activations
        prompt, samples = _of_prompt(store, prompt.strip())
        if sae is None:
            sae = train(store, samples, SAESize(), seed)
        else:
            here = {**store.provenance, "channels": store.layout.channels}
            check_fits("The autoencoder was made", {**sae.meta, "channels": sae.d_in}, here, LOADER)
        embeddings = _embeddings(store, samples, scorer)
        namer = _namer(store, scorer, phrases, index, seed)
        devices.load(sae)
        settings = {
            "min_support": min_pictures,
            "normalize": normalize,
            "rare": rare,
            "seed": seed,
            "clip": {"name": scorer.name, "fingerprint": scorer.fingerprint},
            "naming": namer.row(),
        }
        found = find_features(
            store,
            samples,
            TrainedSAE(sae, sae.meta.get("metrics", {})),
            namer.labeller(prompt, scorer.texts),
            listed=listed,
            rare=rare,
            normalize=normalize,
            min_support=min_pictures,
            seed=seed,
            embeddings=embeddings,
        )
        features = FeatureSet.of(store, found, prompt, settings)
        sheet = to_image([contact_sheet(features)])
        return io.NodeOutput(features, sheet, features.text(), sae, ui=feature_ui(features))


def _of_prompt(store: ActivationReader, prompt: str) -> tuple[str, list[int]]:
    """The prompt in words, and its pictures in the store; a recording that doesn't name its prompt has only one."""
    held = [str(sample.prompt) for sample in store.samples]
    names = list(dict.fromkeys(held))
    if names == [""]:
        return prompt, list(range(len(held)))
    if len(names) == 1 and not prompt:
        prompt = names[0]
    if prompt not in names:
        listed = "; ".join(repr(name) for name in names)
        raise HapaxError(f"The recording has pictures of {listed}, but the prompt is {prompt!r}; give one of those.")
    return prompt, [i for i, name in enumerate(held) if name == prompt]


def _embeddings(store: ActivationReader, samples: list[int], scorer: Scorer) -> Tensor:
    """The scorer's embeddings [N, E] of pictures in the store: those recorded, if they are its own."""
    if store.layout.embedding is not None and store.provenance.get("clip") == scorer.fingerprint:
        return store.embeddings(samples)
    report, parts, done = progress(len(samples)), [], 0
    for batch in batches(samples, _EMBEDDED):
        report(done)
        parts.append(scorer.pixels(store.thumbnails(batch)))
        done += len(batch)
    report(done)
    return torch.cat(parts)


def _namer(store: ActivationReader, scorer: Scorer, phrases: str, index: CaptionIndex | None, seed: int) -> Namer:
    """What names the features: an index that was built for the recorded model and site, or CLIP by phrases."""
    if index is not None:
        index.check_fits({**store.provenance, "channels": store.layout.channels})
    return Namer(tuple(lines_of(phrases) or scorer.phrases), index, seed)


class ShowFeature(io.ComfyNode):
    """Show Feature."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "ShowFeature",
            "Show Feature",
            "features",
            description="Show one feature: the pictures on which it fires most, and where in them.",
            search_aliases=[*_SEARCH, "heatmap", "exemplars"],
            inputs=[
                FEATURES.Input("features", tooltip="From Find Rare Features."),
                feature_widget(),
                widget(
                    io.Float,
                    "opacity",
                    default=0.75,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Of the heatmap over the pictures.",
                ),
                widget(io.Int, "columns", default=5, min=1, max=20, tooltip="Pictures in a row of the sheet."),
            ],
            outputs=[
                io.Image.Output("IMAGE", display_name="sheet", tooltip="Its pictures, without and with heatmaps."),
                io.Image.Output("PICTURES", display_name="pictures", tooltip="Its pictures, strongest first."),
                io.Mask.Output("MASK", display_name="heatmaps", tooltip="Where it fires in them, 0 to 1, as a batch."),
                io.String.Output("INFO", display_name="info", tooltip="Its numbers in words."),
            ],
        )

    @classmethod
    def execute(cls, features: FeatureSet, feature: str, opacity: float, columns: int) -> io.NodeOutput:
        """Show."""
        chosen = features.find(feature)
        height, width = chosen.pictures.shape[1:3]
        sheet = feature_sheet(chosen, features.prompt, columns=columns, opacity=opacity)
        heatmaps = resized(chosen.heat, (height, width))
        return io.NodeOutput(to_image([sheet]), to_image(chosen.pictures), heatmaps, chosen.describe())


NODES = [FindRareFeatures, ShowFeature]

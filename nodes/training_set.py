"""Pictures to train on as nodes hand them on: LATENTs with their CONDITIONINGs, and the node that makes some."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.collect import Sampling
from ..core.errors import HapaxError
from ..core.invdiff.data import PictureSet, make_pictures
from . import folders
from .backend import ComfyBackend
from .caption_runs import RUN_TIP, caption_bar, equal_seeds_widgets
from .embeddings import lines_of
from .fingerprint import conditioning_fingerprint
from .schema import io, schema, widget

SEARCH = ["hapax", "invdiff", "debias", "fairness", "bias"]
# Under this key a CONDITIONING says what it was made from; ComfyUI hands unknown keys on and looks at none.
WORDS = "hapax_prompt"


class SampleTrainingSet(io.ComfyNode):
    """Sample Training Set."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SampleTrainingSet",
            "Sample Training Set",
            "debias",
            description="Let the model make its own training pictures: many of each prompt, each from its own seed. "
            "No pictures of yours are needed to even out what the model shows. It can be interrupted: queued again, it "
            "goes on where it stopped.",
            search_aliases=[*SEARCH, "dataset", "many pictures"],
            inputs=[
                io.Model.Input("model", tooltip="The model to even out, with LoRAs and the like already on it."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                widget(
                    io.String,
                    "prompts",
                    default="a photo of a doctor\na photo of a nurse",
                    multiline=True,
                    tooltip="Plain prompts to even out, one a line.",
                ),
                *equal_seeds_widgets(
                    500,
                    2,
                    "Pictures of each prompt. A rare kind needs many: 500 hold 15 of 3 %.",
                    20,
                    "As for any picture.",
                ),
                widget(io.String, "run", default="training", advanced=True, tooltip=RUN_TIP),
            ],
            outputs=[
                io.Latent.Output(
                    "LATENTS",
                    display_name="latents",
                    is_output_list=True,
                    tooltip="The pictures, one batch a prompt: for Infer Bias Groups.",
                ),
                io.Conditioning.Output(
                    "CONDITIONING",
                    display_name="conditioning",
                    is_output_list=True,
                    tooltip="Their prompts, one a batch: for Infer Bias Groups.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompts: str,
        seeds: int,
        first_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        batch_size: int,
        run: str,
    ) -> io.NodeOutput:
        """Sample what is missing."""
        asked = tuple(dict.fromkeys(lines_of(prompts)))
        if not asked:
            raise HapaxError("No prompt is given; give at least one, one a line.")
        backend = ComfyBackend(model, clip, sampler_name, scheduler)
        sampling = Sampling(steps, cfg, batch_size, {"width": width, "height": height})
        words = [backend.encode(prompt) for prompt in asked]
        known = {key: value for key, value in backend.identity().items() if key != "versions"}
        made = json.dumps([known, *map(conditioning_fingerprint, words), repr(sampling)], sort_keys=True)
        folder = folders.output_folder(f"{run}-{hashlib.sha256(made.encode()).hexdigest()[:8]}")
        numbers = range(first_seed, first_seed + seeds)
        pictures = make_pictures(backend, asked, numbers, sampling, folder=folder, progress=caption_bar())
        latents = [{"samples": pictures.latents[pictures.prompt == u]} for u in range(len(asked))]
        said = [[[each[0][0], {**each[0][1], WORDS: prompt}]] for each, prompt in zip(words, asked, strict=True)]
        return io.NodeOutput(latents, said)


def read_set(model: Any, latents: Sequence[dict[str, Any]], conditioning: Sequence[list]) -> tuple[PictureSet, list]:
    """Turn lists as ComfyUI's dataset nodes make them into pictures in the denoiser's scale, and their prompts.

    Args:
        model: a MODEL, which says what the denoiser's scale is.
        latents: LATENTs, of one picture or many each.
        conditioning: one for each LATENT, or one for all.

    Returns:
        The pictures, and the U different CONDITIONINGs in the order of their `prompts`.

    Raises:
        HapaxError: lists of other lengths, latents of another model, or of different sizes.
    """
    conditioning = one_each(latents, conditioning)
    samples = [each["samples"].detach().float().cpu() for each in latents]
    _check_size(model, samples)
    prints = [conditioning_fingerprint(each) for each in conditioning]
    unique = {each: given for each, given in zip(prints, conditioning, strict=True)}
    order = list(unique)
    prompt = torch.tensor([order.index(each) for each, rows in zip(prints, samples, strict=True) for _ in rows])
    clean = model.model.process_latent_in(torch.cat(samples)).float().clone()
    ids = tuple(str(row) for row in range(len(clean)))
    return PictureSet(clean, prompt, tuple(map(_words, range(len(order)), unique.values())), ids), list(unique.values())


def one_each(latents: Sequence[dict[str, Any]], conditioning: Sequence[list]) -> list[list]:
    """A CONDITIONING for each LATENT, where one may be given for all.

    Raises:
        HapaxError: there are several, but not as many as latents.
    """
    given = list(conditioning) * len(latents) if len(conditioning) == 1 else list(conditioning)
    if len(given) != len(latents):
        raise HapaxError(
            f"There are {len(latents)} latents and {len(given)} prompts; give a prompt for each latent, or one."
        )
    return given


def _words(number: int, conditioning: list) -> str:
    """What a CONDITIONING was made from, or its number where it doesn't say."""
    return str(conditioning[0][1].get(WORDS) or f"prompt {number + 1}") if conditioning else f"prompt {number + 1}"


def _check_size(model: Any, samples: Sequence[Tensor]) -> None:
    channels = model.get_model_object("latent_format").latent_channels
    sizes = sorted({tuple(each.shape[1:]) for each in samples})
    if len(sizes) != 1 or len(sizes[0]) != 3:
        raise HapaxError(f"The latents have the shapes {sizes}; give pictures of one size, [channels, height, width].")
    if sizes[0][0] != channels:
        raise HapaxError(
            f"The latents have {sizes[0][0]} channels, but this model's have {channels}; encode with its own VAE."
        )


NODES = [SampleTrainingSet]

"""Nodes that take a prompt out of embeddings, or keep only what it explains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.errors import HapaxError
from .embeddings import PICTURES, TEXTS, Embeddings, embed_texts, lines_of, prompts_for
from .prompt_map import PROMPT_MAP, SEARCH, FittedMap
from .schema import EMBEDDINGS, io, schema, widget

_POOLED = "pooled_output"
# What is done to rows [n, d], given the embeddings [n, d] of their prompts.
Edit = Callable[[Tensor, Tensor], Tensor]


def _inputs(what: str) -> list[Any]:
    return [
        PROMPT_MAP.Input("prompt_map", tooltip="From Fit Prompt Map."),
        EMBEDDINGS.Input("embeddings", optional=True, tooltip="From Embed Images or Embed Texts."),
        io.ClipVisionOutput.Input(
            "clip_vision_output",
            optional=True,
            tooltip="From CLIP Vision Encode; its image embedding is changed, its patches are not. The CLIP vision "
            "model must be the one that the scorer is, such as ViT-H-14 for both.",
        ),
        io.Conditioning.Input(
            "conditioning",
            optional=True,
            tooltip="Its pooled embedding is changed, its tokens are not; the map must be fitted on texts, by the "
            "scorer that is the text encoder, such as ViT-bigG-14 for SDXL's.",
        ),
        widget(
            io.String,
            "prompt",
            default="",
            multiline=True,
            tooltip=f"What to {what}: one line for all, or one a row. Empty takes the prompts that came with the "
            "embeddings.",
        ),
    ]


def _outputs() -> list[Any]:
    return [
        EMBEDDINGS.Output("EMBEDDINGS", display_name="embeddings", tooltip="The embeddings, changed."),
        io.ClipVisionOutput.Output(
            "CLIP_VISION_OUTPUT", display_name="clip_vision_output", tooltip="The same, changed, if it was wired."
        ),
        io.Conditioning.Output("CONDITIONING", display_name="conditioning", tooltip="The same, changed, if wired."),
    ]


class RemovePrompt(io.ComfyNode):
    """Remove Prompt from Embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "RemovePrompt",
            "Remove Prompt from Embedding",
            "diversity",
            description="Take what a prompt says out of an embedding, and leave the rest: a picture of a firefighter "
            "at night without the firefighter. For Hapax embeddings, CLIP vision outputs and pooled conditionings.",
            search_aliases=[*SEARCH, "subtract concept", "negative"],
            inputs=[
                *_inputs("remove"),
                widget(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="1 removes all of it, 0 changes nothing, below 0 adds more of it.",
                ),
                widget(
                    io.Boolean,
                    "keep_norm",
                    default=True,
                    advanced=True,
                    tooltip="Give each embedding the length that it had; most that read embeddings expect that.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        prompt_map: FittedMap,
        prompt: str,
        strength: float,
        keep_norm: bool,
        embeddings: Embeddings | None = None,
        clip_vision_output: Any = None,
        conditioning: list | None = None,
    ) -> io.NodeOutput:
        """Remove."""
        if embeddings is None and clip_vision_output is None and conditioning is None:
            raise HapaxError(
                "Nothing is wired to remove a prompt from; wire embeddings, a CLIP vision output or a conditioning."
            )

        def edit(rows: Tensor, texts: Tensor) -> Tensor:
            return prompt_map.map.remove(rows, texts, strength, unit=keep_norm)

        return _edited(prompt_map, prompt, edit, "without {}", embeddings, clip_vision_output, conditioning)


class KeepPrompt(io.ComfyNode):
    """Keep Prompt of Embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "KeepPrompt",
            "Keep Prompt of Embedding",
            "diversity",
            description="Keep only what a prompt says of an embedding: what all pictures of a firefighter have in "
            "common. With nothing wired but the map, it makes that embedding from the prompt alone.",
            search_aliases=[*SEARCH, "keep prompt", "average"],
            inputs=_inputs("keep"),
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        prompt_map: FittedMap,
        prompt: str,
        embeddings: Embeddings | None = None,
        clip_vision_output: Any = None,
        conditioning: list | None = None,
    ) -> io.NodeOutput:
        """Keep."""

        def edit(rows: Tensor, texts: Tensor) -> Tensor:
            # The map speaks of directions; rows keep their scale, as they do where a prompt is removed.
            return rows.norm(dim=1, keepdim=True) * prompt_map.map.keep(texts.to(rows))

        if embeddings is None and clip_vision_output is None and conditioning is None:
            return io.NodeOutput(
                _from_prompt(prompt_map, prompt), *map(_blocked, ("CLIP_VISION_OUTPUT", "CONDITIONING"))
            )
        return _edited(prompt_map, prompt, edit, "only {}", embeddings, clip_vision_output, conditioning)


def _from_prompt(fitted: FittedMap, prompt: str) -> Embeddings:
    lines = lines_of(prompt)
    if not lines:
        raise HapaxError("There is neither a prompt nor anything wired; write the prompt that the map should explain.")
    kept = fitted.map.keep(embed_texts(lines, fitted.scorer))
    names = tuple(f"only {_quoted([line])}" for line in lines)
    return Embeddings(kept, fitted.kind, fitted.scorer, tuple(lines), names=names)


def _edited(
    fitted: FittedMap,
    prompt: str,
    edit: Edit,
    words: str,
    embeddings: Embeddings | None,
    vision: Any,
    conditioning: list | None,
) -> io.NodeOutput:
    """The three of them with their rows edited; those that weren't wired stop what they are wired to."""
    made: list[Any] = [_blocked(name) for name in ("EMBEDDINGS", "CLIP_VISION_OUTPUT", "CONDITIONING")]
    if embeddings is not None:
        made[0] = _edit_embeddings(fitted, prompt, edit, words, embeddings)
    if vision is not None:
        made[1] = _edit_vision(fitted, prompt, edit, vision)
    if conditioning is not None:
        made[2] = [_edit_pooled(fitted, prompt, edit, each) for each in conditioning]
    return io.NodeOutput(*made)


def _blocked(name: str) -> ExecutionBlocker:
    return ExecutionBlocker(
        f"This node made no {name}, because none is wired into it; wire one, or use another output."
    )


def _edit_embeddings(fitted: FittedMap, prompt: str, edit: Edit, words: str, given: Embeddings) -> Embeddings:
    if given.scorer.fingerprint != fitted.scorer.fingerprint:
        raise HapaxError(
            f"The embeddings are of {given.scorer.name}, but the prompt map was fitted on others, of "
            f"{fitted.scorer.name}; use one CLIP scorer for both."
        )
    _check_kind(fitted, given.kind, "The embeddings are")
    if lines_of(prompt) or not given.prompts:
        prompts = prompts_for(prompt, len(given), "embeddings")
    else:
        prompts = list(given.prompts)
    rows = edit(given.vectors, embed_texts(prompts, fitted.scorer))
    return replace(given, vectors=rows, before=given, change=words.format(_quoted(prompts)))


def _edit_vision(fitted: FittedMap, prompt: str, edit: Edit, given: Any) -> Any:
    rows = given["image_embeds"]
    _check_kind(fitted, PICTURES, "A CLIP vision output is")
    _check_size(fitted, rows, "The CLIP vision output", "the CLIP vision model that the scorer is")
    edited = copy.copy(given)
    edited["image_embeds"] = edit(rows, _texts(fitted, prompt, rows))
    return edited


def _edit_pooled(fitted: FittedMap, prompt: str, edit: Edit, given: list) -> list:
    tokens, options = given[0], dict(given[1])
    rows = options.get(_POOLED)
    if rows is None:
        raise HapaxError("The conditioning has no pooled embedding; this model doesn't use one, so leave it unwired.")
    _check_kind(fitted, TEXTS, "A conditioning is")
    _check_size(fitted, rows, "The pooled conditioning", "the text encoder that the scorer is")
    options[_POOLED] = edit(rows, _texts(fitted, prompt, rows))
    return [tokens, options]


def _texts(fitted: FittedMap, prompt: str, rows: Tensor) -> Tensor:
    return embed_texts(prompts_for(prompt, len(rows), "embeddings"), fitted.scorer).to(rows.device)


def _check_kind(fitted: FittedMap, kind: str, subject: str) -> None:
    if fitted.kind != kind:
        source = {PICTURES: "Embed Images", TEXTS: "Embed Texts"}[kind]
        raise HapaxError(
            f"{subject} of {kind}, but the prompt map was fitted on {fitted.kind}; fit one on what {source} gives."
        )


def _check_size(fitted: FittedMap, rows: Tensor, subject: str, cure: str) -> None:
    if rows.shape[-1] != fitted.map.dim:
        raise HapaxError(
            f"{subject} has {rows.shape[-1]} dimensions, but the prompt map was fitted on {fitted.map.dim} of "
            f"{fitted.scorer.name}; use {cure}."
        )


def _quoted(prompts: list[str]) -> str:
    return f'"{prompts[0]}"' if len(set(prompts)) == 1 else "their prompts"


NODES = [RemovePrompt, KeepPrompt]

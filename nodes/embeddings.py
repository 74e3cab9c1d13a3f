"""Embeddings as nodes hand them on: of pictures or texts, with the prompts that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.collect import batches, thumbnail
from ..core.errors import HapaxError
from .schema import CLIP_SCORER, EMBEDDINGS, io, progress, schema, to_pictures, widget
from .scoring import Scorer

PICTURES, TEXTS = "pictures", "texts"
PROMPTS_TIP = (
    "What the pictures were made from: one line for all, or one line a picture. Fewer lines, such as 2 for 100 "
    "pictures, are shared out in order: the first 50 have the first line."
)
SCORER_TIP = "From Load CLIP Scorer: the model that turns pictures and prompts into embeddings."
_SEARCH = ["hapax", "embedding", "clip", "encode"]
# Pictures between two movements of the progress bar.
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Rows of one CLIP model.

    Attributes:
        vectors: [n, d].
        kind: PICTURES or TEXTS, what the rows are of.
        scorer: the model.
        prompts: [n] what the rows were made from; empty where nothing was said.
        pictures: [n] thumbnails uint8 [H, W, 3]; empty for texts.
        names: [n] in words; empty for pictures.
        before: the same rows as they were before something was done to them.
        change: what was done to them, in words.
    """

    vectors: Tensor
    kind: str
    scorer: Scorer
    prompts: tuple[str, ...] = ()
    pictures: tuple[Tensor, ...] = ()
    names: tuple[str, ...] = ()
    before: Embeddings | None = None
    change: str = ""

    def __len__(self) -> int:
        """How many rows."""
        return len(self.vectors)


def lines_of(text: str) -> list[str]:
    """The lines of a multiline widget that have something in them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def prompts_for(text: str, count: int, what: str = PICTURES) -> list[str]:
    """One prompt for each of `count` things from the lines of a widget.

    Raises:
        HapaxError: no line, or a number of lines that can't be shared out.
    """
    lines = lines_of(text)
    if not lines:
        raise HapaxError(f"No prompt was given for the {count} {what}; write one line for all, or one line for each.")
    if count % len(lines):
        raise HapaxError(
            f"{len(lines)} prompts can't be shared out over {count} {what}; write one line for all, one line for "
            "each, or lines that each stand for equally many."
        )
    return [line for line in lines for _ in range(count // len(lines))]


def embed_pictures(images: Tensor, scorer: Scorer) -> Tensor:
    """Unit embeddings [n, d] of an IMAGE, with the node's progress bar."""
    report, parts, done = progress(len(images)), [], 0
    for batch in batches(range(len(images)), _AT_ONCE):
        report(done)
        parts.append(scorer.images(to_pictures(images[batch[0] : batch[-1] + 1])))
        done += len(batch)
    report(done)
    return torch.cat(parts)


def embed_texts(texts: Sequence[str], scorer: Scorer) -> Tensor:
    """Unit embeddings [n, d] of texts; equal texts get equal bits, so that they are known to be one prompt."""
    unique = list(dict.fromkeys(texts))
    return scorer.texts(unique)[[unique.index(text) for text in texts]]


class EmbedImages(io.ComfyNode):
    """Embed Images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "EmbedImages",
            "Embed Images",
            "diversity",
            description="Turn pictures into embeddings: the vectors in which CLIP compares them. With their prompts "
            "beside them, a prompt map can be fitted, and prompts be removed.",
            search_aliases=[*_SEARCH, "image embedding", "clip vision"],
            inputs=[
                io.Image.Input("images", tooltip="A batch of pictures."),
                CLIP_SCORER.Input("scorer", tooltip=SCORER_TIP),
                widget(io.String, "prompts", default="", multiline=True, tooltip=f"{PROMPTS_TIP} May be empty."),
            ],
            outputs=[_output("The pictures as vectors, with thumbnails and prompts.")],
        )

    @classmethod
    def execute(cls, images: Tensor, scorer: Scorer, prompts: str) -> io.NodeOutput:
        """Embed."""
        given = tuple(prompts_for(prompts, len(images))) if lines_of(prompts) else ()
        small = tuple(thumbnail(to_pictures(each[None])[0]) for each in images)
        return io.NodeOutput(Embeddings(embed_pictures(images, scorer), PICTURES, scorer, given, small))


class EmbedTexts(io.ComfyNode):
    """Embed Texts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "EmbedTexts",
            "Embed Texts",
            "diversity",
            description="Turn lines of text into embeddings of the same kind as those of pictures, so that words find "
            "pictures. A prompt map fitted on texts removes prompts from texts.",
            search_aliases=[*_SEARCH, "text embedding", "search pictures by words"],
            inputs=[
                CLIP_SCORER.Input("scorer", tooltip=SCORER_TIP),
                widget(io.String, "texts", default="", multiline=True, tooltip="One text a line."),
                widget(
                    io.String,
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="The part of each text that a map fitted on them shall explain, such as its subject: one "
                    "line for all, or one line a text. May be empty.",
                ),
            ],
            outputs=[_output("The texts as vectors, with their prompts.")],
        )

    @classmethod
    def execute(cls, scorer: Scorer, texts: str, prompts: str) -> io.NodeOutput:
        """Embed."""
        lines = lines_of(texts)
        if not lines:
            raise HapaxError("No text was given to embed; write at least one line.")
        given = tuple(prompts_for(prompts, len(lines), TEXTS)) if lines_of(prompts) else ()
        return io.NodeOutput(Embeddings(embed_texts(lines, scorer), TEXTS, scorer, given, names=tuple(lines)))


def _output(tooltip: str) -> Any:
    return EMBEDDINGS.Output("EMBEDDINGS", display_name="embeddings", tooltip=tooltip)


NODES = [EmbedImages, EmbedTexts]

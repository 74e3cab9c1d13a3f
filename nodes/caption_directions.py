"""Nodes between words and directions: a caption's direction, a direction's names, a dial."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core.direction import Direction
from ..core.directions import CaptionIndex, Naming, record_dial
from ..core.errors import HapaxError
from .backend import ComfyBackend
from .caption_runs import caption_run, run_widgets
from .captions import SEARCH
from .schema import DIRECTION, INDEX, io, schema, to_pictures, ui, widget

NAMELESS = "no good name"


def _listed_widget() -> Any:
    return widget(io.Int, "listed", default=5, min=1, max=100, tooltip="How many captions to list.")


def naming_text(naming: Naming) -> str:
    """The nearest names with their cosines, one a line, and whether any is better than chance."""
    lines = [f"{cosine:+.3f}  {name}" for name, cosine in naming.nearest]
    good = ", ".join(name for name, _ in naming.names) or NAMELESS
    return "\n".join([*lines, f"p {naming.p:.3f} of as near a name by chance: {good}"])


class LookUpCaption(io.ComfyNode):
    """Look Up Caption."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LookUpCaption",
            "Look Up Caption",
            "captions",
            description="Take the direction of a caption out of an index, for Apply Direction or Combine Directions, "
            "and list the captions nearest to it.",
            search_aliases=[*SEARCH, "text to direction"],
            inputs=[
                INDEX.Input("index", tooltip="From Build Caption Index or Load Caption Index."),
                widget(io.String, "caption", default="", tooltip="A caption of the index, as it is written there."),
                widget(
                    io.String,
                    "versus",
                    default="",
                    tooltip="The caption that it is compared with, as in: a photo of a cook. Empty compares it with "
                    "the mean of the index.",
                ),
                _listed_widget(),
                widget(
                    io.Boolean,
                    "profiled",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Give the direction the profile over the steps that was recorded: it then pushes most "
                    "where the caption changes most. Only where versus is empty.",
                ),
            ],
            outputs=[
                DIRECTION.Output(
                    "DIRECTION",
                    display_name="direction",
                    tooltip="For Apply Direction. It is the same at all places and steps; Caption to Direction records "
                    "one that isn't, and steers better.",
                ),
                io.String.Output(
                    "TABLE", display_name="table", tooltip="The nearest captions, and how sure the direction is."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, index: CaptionIndex, caption: str, versus: str, listed: int, profiled: bool = False
    ) -> io.NodeOutput:
        """Look up."""
        caption, versus = caption.strip(), versus.strip()
        if not caption:
            raise HapaxError(f"No caption is given; give one of the {len(index)} in the index, such as {_some(index)}.")
        direction = index.direction(caption, versus or None, profiled=profiled)
        lines = [naming_text(index.name(direction, listed)), *_evidence(index, [caption, versus])]
        table = "\n".join(lines)
        return io.NodeOutput(direction, table, ui=ui.PreviewText(table))


def _some(index: CaptionIndex) -> str:
    return ", ".join(repr(index.captions[row]) for row in range(min(3, len(index))))


def _evidence(index: CaptionIndex, captions: list[str]) -> list[str]:
    """How sure the directions of captions are, one a line; the neutral prompt has no evidence of its own."""
    lines = []
    for caption in filter(None, captions):
        row = index.captions.index(caption)
        if row < len(index):
            sure = "more than noise" if bool(index.reliable[row]) else "no more than noise, so take more seeds"
            half, p = (index.evidence(caption)[key] for key in ("split_half", "p"))
            lines.append(f"{caption}: halves of the seeds agree by {half:.2f}, p {p:.3f}, {sure}")
    return lines


class DescribeDirection(io.ComfyNode):
    """Describe Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "DescribeDirection",
            "Describe Direction",
            "captions",
            description="What is this direction, in words? Names it by the captions that change the model's state in "
            "the same way, or says that there is no good name. Wire pictures in place of a direction to learn what "
            "sets them apart.",
            search_aliases=[*SEARCH, "name feature", "interpret", "describe picture"],
            inputs=[
                INDEX.Input("index", tooltip="From Build Caption Index or Load Caption Index."),
                DIRECTION.Input(
                    "direction",
                    optional=True,
                    tooltip="From Feature to Direction, Load Direction, Combine Directions.",
                ),
                io.Image.Input("image", optional=True, tooltip="Pictures to describe, in place of a direction."),
                io.Image.Input(
                    "against",
                    optional=True,
                    tooltip="Pictures to compare them with; without them, what pictures are to the neutral prompt.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="For pictures: the model that the index was built with."
                ),
                io.Clip.Input("clip", optional=True, tooltip="For pictures: its text encoder."),
                io.Vae.Input("vae", optional=True, tooltip="For pictures: encodes them."),
                _listed_widget(),
                widget(
                    io.Int,
                    "seeds",
                    default=4,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="For pictures: how many noises each is looked at under.",
                ),
            ],
            outputs=[
                io.String.Output("NAME", display_name="name", tooltip=f"The best name, or: {NAMELESS}."),
                io.String.Output("TABLE", display_name="table", tooltip="The nearest captions, good or not."),
            ],
        )

    @classmethod
    def execute(
        cls,
        index: CaptionIndex,
        direction: Direction | None = None,
        image: Tensor | None = None,
        against: Tensor | None = None,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        listed: int = 5,
        seeds: int = 4,
    ) -> io.NodeOutput:
        """Name it."""
        if (direction is None) == (image is None):
            raise HapaxError(
                "Wire either a direction or an image, and not both, so that it is clear what is described."
            )
        if direction is not None:
            naming = index.name(direction, listed)
        elif model is None or clip is None or vae is None:
            raise HapaxError(
                "Pictures are described by the model that the index was built with; wire model, clip, vae."
            )
        else:
            backend = ComfyBackend(model, clip, "euler", "normal", vae)
            given = [None if each is None else to_pictures(each) for each in (image, against)]
            naming = index.describe(*given, listed, backend=backend, seeds=seeds)
        name = naming.names[0][0] if naming.names else NAMELESS
        table = naming_text(naming)
        return io.NodeOutput(name, table, ui=ui.PreviewText(table))


class CaptionToDirection(io.ComfyNode):
    """Caption to Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "CaptionToDirection",
            "Caption to Direction",
            "captions",
            description="Turn words into a dial: records what naming something changes inside the model, at each step "
            "and place, so that Apply Direction can push a prompt that doesn't name it. No index is needed.",
            search_aliases=[*SEARCH, "slider", "dial", "concept slider"],
            inputs=[
                io.Model.Input("model", tooltip="The model to listen to."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                widget(
                    io.String,
                    "caption",
                    default="a photo of a cook, line sketch",
                    multiline=True,
                    tooltip="A prompt that names it.",
                ),
                widget(
                    io.String,
                    "versus",
                    default="a photo of a cook",
                    multiline=True,
                    tooltip="The same without it, or with the opposite.",
                ),
                *run_widgets(16, 2, "Samples of either prompt. More seeds, less noise in the direction.", 10),
            ],
            outputs=[
                DIRECTION.Output("DIRECTION", display_name="direction", tooltip="For Apply Direction, Save Direction."),
                io.String.Output("INFO", display_name="info", tooltip="What it is, and what it was made with."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, caption: str, versus: str, **sampling: Any) -> io.NodeOutput:
        """Record."""
        caption, versus = caption.strip(), versus.strip()
        if not caption:
            raise HapaxError("No caption is given; give a prompt that names what the direction is to bring.")
        made = caption_run(model, clip, **sampling)
        direction = record_dial(made.backend, caption, versus, **made.options).patterned()
        return io.NodeOutput(direction, direction.describe())


NODES = [LookUpCaption, DescribeDirection, CaptionToDirection]

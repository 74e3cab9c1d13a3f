"""Diversity Modes: what varies in pictures beyond their prompts, shown by the pictures at its ends."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.collect import thumbnail
from ..core.contact_sheet import Row, draw_sheet
from ..core.sce import Mode, diversity_modes
from .diversity import SEARCH, of_prompts, pair_inputs, ridge_widget
from .embeddings import embed_pictures, embed_texts, prompts_for
from .schema import io, schema, to_image, to_pictures, widget
from .scoring import Scorer


class DiversityModes(io.ComfyNode):
    """Diversity Modes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "DiversityModes",
            "Diversity Modes",
            "diversity",
            description="What varies in these pictures that their prompts don't say? Shows the strongest directions "
            "in which pictures of the same prompt differ, with the pictures at both ends of each.",
            search_aliases=[*SEARCH, "what varies", "principal components", "clusters"],
            inputs=[
                *pair_inputs(),
                widget(io.Int, "count", default=5, min=1, max=50, tooltip="How many directions, strongest first."),
                widget(io.Int, "pictures", default=8, min=1, max=20, tooltip="How many pictures to show at each end."),
                ridge_widget(),
            ],
            outputs=[
                io.Image.Output(
                    "SHEET", display_name="sheet", tooltip="Two lines a direction: one end, and the other."
                ),
                io.String.Output("TABLE", display_name="table", tooltip="How much of the variety each direction is."),
            ],
        )

    @classmethod
    def execute(
        cls, images: Tensor, scorer: Scorer, prompts: str, count: int, pictures: int, ridge: float
    ) -> io.NodeOutput:
        """Find them, and draw."""
        given = prompts_for(prompts, len(images))
        embedded = embed_pictures(images, scorer), embed_texts(given, scorer)
        modes = diversity_modes(*embedded, count=count, pictures=pictures, ridge=ridge)
        rows = [_mode_row(number, mode, images, pictures) for number, mode in enumerate(modes, 1)]
        subtitle = f"{of_prompts(len(images), len(set(given)))}, {scorer.name}"
        sheet = draw_sheet("What varies beyond the prompts", subtitle, rows, columns=pictures)
        lines = [
            f"{number}: {100 * mode.share:.1f} % of what prompts leave open; pictures {_numbers(mode.high)} against "
            f"{_numbers(mode.low)}"
            for number, mode in enumerate(modes, 1)
        ]
        return io.NodeOutput(to_image([sheet]), "\n".join(lines))


def _numbers(indices: list[int]) -> str:
    return ", ".join(str(i + 1) for i in indices)


def _mode_row(number: int, mode: Mode, images: Tensor, columns: int) -> Row:
    ends = [[thumbnail(to_pictures(images[i : i + 1])[0]) for i in end] for end in (mode.high, mode.low)]
    shown = [each for end in ends for each in [*end, *[torch.empty(0)] * (columns - len(end))]]
    lines = ["of what prompts leave open", "above: one end", "below: the other"]
    return Row(f"{100 * mode.share:.1f} %", lines, shown, badge=str(number))


NODES = [DiversityModes]

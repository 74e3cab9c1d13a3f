"""Bias Score: how even the groups in a set of pictures are, and what guidance changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.directions.compass import pole_name
from ..core.errors import HapaxError
from ..core.invdiff.evaluation import Judged, bias_row
from ..core.invdiff.files import module_fingerprint
from ..core.invdiff.metrics import bias_floor, bias_interval
from ..core.invdiff.module import GuidanceModule
from .bias_plot import bias_plot
from .embeddings import embed_pictures, embed_texts, lines_of
from .schema import BIAS, CLIP_SCORER, GUIDANCE, io, schema, to_image, ui, widget
from .scoring import Scorer
from .training_set import SEARCH

_COUNTED = "counts given by hand"


@dataclass(frozen=True)
class Bias:
    """What Bias Score found, for Save Audit.

    Attributes:
        row: what audit.json holds under `invdiff`, or None where nothing was counted from before.
    """

    row: dict[str, Any] | None

    def section(self) -> dict[str, Any]:
        """The row.

        Raises:
            HapaxError: there is none.
        """
        if self.row is None:
            raise HapaxError("Bias Score counted nothing from before; wire pictures before guidance, or counts.")
        return self.row


class BiasScore(io.ComfyNode):
    """Bias Score."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "BiasScore",
            "Bias Score",
            "debias",
            description="How evenly do these pictures show the groups that you name? Gives the bias score of the "
            "InvDiff paper, from 0 (all groups equally common) to 1 (of two groups only one is shown), with a 95 % "
            "interval. CLIP counts the pictures, or you do.",
            search_aliases=[*SEARCH, "count", "gender bias", "representation"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", optional=True, tooltip="Pictures of one prompt."),
                io.Image.Input(
                    "before",
                    optional=True,
                    tooltip="The same without guidance, from the same seeds: shows what the guidance changed.",
                ),
                CLIP_SCORER.Input("scorer", optional=True, tooltip="From Load CLIP Scorer; counts the pictures."),
                GUIDANCE.Input("guidance", optional=True, tooltip="What made the difference, for the report."),
                widget(
                    io.String,
                    "prompt",
                    default="a photo of a doctor",
                    tooltip="What the pictures are of. It stands for {} below.",
                ),
                widget(
                    io.String,
                    "groups",
                    default="{}, woman\n{}, man",
                    multiline=True,
                    tooltip="The groups, one a line; {} stands for the prompt. Each picture counts for the line that "
                    "CLIP finds nearest.",
                ),
                widget(
                    io.String,
                    "concepts",
                    default="",
                    multiline=True,
                    tooltip="What else the pictures could show, one a line, as in: a photo of a nurse. Then it is "
                    "counted how many still show the prompt. Empty counts nothing.",
                ),
                widget(
                    io.String,
                    "counts",
                    default="",
                    tooltip="In place of pictures: how many there are of each group, as in 90, 10.",
                ),
                widget(io.String, "counts_before", default="", tooltip="In place of pictures before: the same."),
                widget(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip="The strength that the guidance had, for the report.",
                ),
            ],
            outputs=[
                io.Float.Output("BIAS", display_name="bias", tooltip="The bias score of the pictures."),
                io.String.Output("TABLE", display_name="table", tooltip="Groups and scores, with 95 % intervals."),
                io.Image.Output("PLOT", display_name="plot", tooltip="The same as a picture."),
                BIAS.Output(
                    "REPORT", display_name="report", tooltip="For Save Audit; needs pictures or counts from before."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        prompt: str,
        groups: str,
        concepts: str,
        counts: str,
        counts_before: str,
        strength: float,
        images: Tensor | None = None,
        before: Tensor | None = None,
        scorer: Scorer | None = None,
        guidance: GuidanceModule | None = None,
    ) -> io.NodeOutput:
        """Count, and score."""
        names = lines_of(groups)
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise HapaxError(f"The groups are {names}; give two or more, each once, one a line.")
        judge = _Judge(prompt.strip(), names, lines_of(concepts), scorer)
        after = judge.judged(images, counts, "pictures")
        if after is None:
            raise HapaxError("There is nothing to count; wire images and a CLIP scorer, or give counts.")
        sides = {"before": judge.judged(before, counts_before, "pictures before"), "after": after}
        given = {end: side for end, side in sides.items() if side is not None}
        table, said = bias_table(judge.names, given), f"{after.total:,} pictures, counted by {judge.by}"
        plot = to_image([bias_plot(prompt.strip() or "Bias", said, judge.names, given)])
        row = None if len(given) < 2 else _report(judge, given, guidance, strength)
        return io.NodeOutput(bias_interval(after.counts)[0], table, plot, Bias(row), ui=ui.PreviewText(table))


class _Judge:
    """Counts pictures by CLIP, or reads counts."""

    def __init__(self, prompt: str, groups: list[str], concepts: list[str], scorer: Scorer | None) -> None:
        self.prompt, self.groups, self.scorer = prompt, groups, scorer
        self.concepts = [prompt, *(each for each in concepts if each != prompt)] if concepts else []
        self.names = [pole_name(each) for each in groups]
        self.by = _COUNTED

    def judged(self, images: Tensor | None, counts: str, what: str) -> Judged | None:
        """What is known of some pictures; None if there are none."""
        if counts.strip():
            return Judged(torch.tensor(self._numbers(counts)))
        if images is None:
            return None
        if self.scorer is None:
            raise HapaxError(f"The {what} can't be counted without a CLIP scorer; wire one, or give counts.")
        self.by = self.scorer.name
        texts = embed_texts([each.replace("{}", self.prompt) for each in self.groups], self.scorer)
        alternatives = embed_texts(self.concepts, self.scorer) if len(self.concepts) > 1 else None
        return Judged.by_clip(embed_pictures(images, self.scorer), texts, alternatives)

    def _numbers(self, counts: str) -> list[int]:
        parts = [part for part in counts.replace(",", " ").split() if part]
        if len(parts) != len(self.groups) or not all(part.isdecimal() for part in parts):
            wanted = f"{len(self.groups)} groups, as in 90, 10"
            raise HapaxError(f"The counts are {counts!r}; give a whole number for each of the {wanted}.")
        return [int(part) for part in parts]


def bias_table(names: list[str], sides: dict[str, Judged]) -> str:
    """Counts of the groups, bias, and how many pictures still show the prompt, one a line."""
    lines = []
    for end, side in sides.items():
        score, low, high = bias_interval(side.counts)
        shares = ", ".join(f"{name} {count}" for name, count in zip(names, side.counts.tolist(), strict=True))
        lines.append(f"{end}: bias {score:.2f} ({low:.2f} to {high:.2f}) of {side.total:,} pictures: {shares}")
        if side.concept is not None:
            lines.append(f"  {side.concept} of {side.total:,} show the prompt")
        if side.diversity is not None:
            lines.append(f"  SCE {side.diversity['image']:.2f}")
    total = sides["after"].total
    return "\n".join([*lines, f"even groups would give {bias_floor(len(names), total):.2f} by chance"])


def _report(
    judge: _Judge, sides: dict[str, Judged], guidance: GuidanceModule | None, strength: float
) -> dict[str, Any]:
    known = {"module": "not named"}
    if guidance is not None:
        known = {
            "module": f"at {guidance.shape.site} of {guidance.shape.parameters:,} parameters",
            "fingerprint": module_fingerprint(guidance),
        }
    row = bias_row(judge.prompt, judge.names, sides["before"], sides["after"])
    return {**known, "strength": strength, "measured_by": judge.by, "prompts": [row]}


NODES = [BiasScore]

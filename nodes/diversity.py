"""Nodes that measure diversity: beyond what prompts explain, and without prompts."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from ..core.sce import DEFAULT_RIDGE, rke_score, vendi_score
from ..core.sce.summary import score_row
from .embeddings import PROMPTS_TIP, SCORER_TIP, embed_pictures, embed_texts, prompts_for
from .plots import score_plot
from .schema import CLIP_SCORER, io, schema, to_image, widget
from .scoring import Scorer

SEARCH = ["hapax", "diversity", "entropy", "vendi", "variety", "mode collapse"]
_WORDS = (
    ("image", "SCE beyond the prompts"),
    ("text", "owed to the prompts"),
    ("image_effective", "kinds beyond the prompts"),
    ("text_effective", "kinds owed to the prompts"),
)


def pair_inputs() -> list[Any]:
    """The inputs of a node that takes pictures with their prompts."""
    return [
        io.Image.Input("images", tooltip="A batch of pictures, at least 2; 40 or more for an interval."),
        CLIP_SCORER.Input("scorer", tooltip=SCORER_TIP),
        widget(io.String, "prompts", default="", multiline=True, tooltip=PROMPTS_TIP),
    ]


def ridge_widget() -> Any:
    """How much of a direction prompts must have to count."""
    return widget(
        io.Float,
        "ridge",
        default=DEFAULT_RIDGE,
        min=1e-6,
        max=1.0,
        step=0.0001,
        round=False,
        advanced=True,
        tooltip="Of the regression on the prompts, a part of the score: the smaller, the more is put down to the "
        "prompts. Compare only scores of one ridge.",
    )


def _kernel_widgets() -> list[Any]:
    return [
        widget(
            io.Combo,
            "kernel",
            options=["cosine", "gaussian"],
            default="cosine",
            advanced=True,
            tooltip="How alike two pictures are: by the angle of their embeddings, or by their distance.",
        ),
        widget(
            io.Float,
            "sigma",
            default=0.5,
            min=0.01,
            max=10.0,
            step=0.05,
            advanced=True,
            tooltip="Width of the gaussian kernel, embeddings having the length 1; without effect on cosine. Compare "
            "only scores of one sigma.",
        ),
    ]


def _kernel(kernel: str, sigma: float) -> dict[str, Any]:
    return {"kernel": kernel, "sigma": None if kernel == "cosine" else sigma}


def score_outputs(of: str) -> list[Any]:
    """SCE and kinds."""
    return [
        io.Float.Output("SCE", display_name="sce", tooltip=f"Schur Complement Entropy {of}, as in the paper's code."),
        io.Float.Output(
            "KINDS",
            display_name="kinds",
            tooltip="The same as a number of kinds: as diverse as so many equally common ones beyond the prompts.",
        ),
    ]


class SCEScore(io.ComfyNode):
    """SCE Score."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SCEScore",
            "SCE Score",
            "diversity",
            description="How diverse are these pictures beyond what their prompts explain? Schur Complement Entropy, "
            "with intervals; wire a second batch to compare two settings of a sampler, two models, two LoRAs.",
            search_aliases=[*SEARCH, "schur complement", "compare settings"],
            inputs=[
                *pair_inputs(),
                io.Image.Input(
                    "compare_with",
                    optional=True,
                    tooltip="Another batch of the same prompts, made with another setting; best of equally many.",
                ),
                widget(io.String, "label", default="images", tooltip="What the table and the plot call the pictures."),
                widget(io.String, "compare_label", default="compare with", tooltip="What they call the second batch."),
                ridge_widget(),
                *_kernel_widgets(),
                widget(
                    io.Int,
                    "folds",
                    default=0,
                    min=0,
                    max=20,
                    advanced=True,
                    tooltip="2 or more cross-fits the regression, which is fairer where nearly all prompts differ; 0 "
                    "does not.",
                ),
            ],
            outputs=[
                *score_outputs("of images"),
                io.String.Output("TABLE", display_name="table", tooltip="All values, with their 95 % intervals."),
                io.Image.Output("PLOT", display_name="plot", tooltip="The values as a picture."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        scorer: Scorer,
        prompts: str,
        label: str,
        compare_label: str,
        ridge: float,
        kernel: str,
        sigma: float,
        folds: int,
        compare_with: Tensor | None = None,
    ) -> io.NodeOutput:
        """Score."""
        given = [(label, images)] if compare_with is None else [(label, images), (compare_label, compare_with)]
        options = {"ridge": ridge, "folds": folds or None, **_kernel(kernel, sigma)}
        pairs = [(name, batch, prompts_for(prompts, len(batch))) for name, batch in given]
        notes: list[str] = []
        scores = [(name, _scored(batch, each, scorer, notes, options)) for name, batch, each in pairs]
        first = scores[0][1]
        verdict = _verdict(scores)
        table = "\n".join([*score_table(scores), *([verdict] if verdict else []), *notes])
        subtitle = verdict or f"{of_prompts(first['n'], first['unique_texts'])}, {scorer.name}"
        plot = score_plot(scores, "Diversity beyond the prompts", subtitle)
        return io.NodeOutput(first["image"], first["image_effective"], table, to_image([plot]))


def _scored(
    images: Tensor, prompts: list[str], scorer: Scorer, notes: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        row = score_row(embed_pictures(images, scorer), embed_texts(prompts, scorer), **options)
    notes += [f"note: {each.message}" for each in told if str(each.message) not in "\n".join(notes)]
    return row


def score_table(scores: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """One or two scores as lines of text."""
    lines = []
    for name, row in scores:
        lines.append(f"{name}: {of_prompts(row['n'], row['unique_texts'])}")
        for key, words in _WORDS:
            span = row.get(f"{key}_interval")
            lines.append(f"  {words}: {row[key]:.3f}" + (f" ({span[0]:.3f} to {span[1]:.3f})" if span else ""))
        lines.append(f"  share of the variance beyond the prompts: {100 * row['trace_image']:.1f} %")
    return lines


def of_prompts(pictures: int, prompts: int) -> str:
    """How many there are, in words."""
    return f"{_pictures(pictures)} of {prompts:,} prompt{'s' if prompts != 1 else ''}"


def _pictures(count: int) -> str:
    return f"{count:,} picture{'s' if count != 1 else ''}"


def _verdict(scores: list[tuple[str, dict[str, Any]]]) -> str:
    """Which of two is more diverse, if their intervals say so."""
    if len(scores) < 2:
        return ""
    more, less = sorted(scores, key=lambda each: each[1]["image"], reverse=True)
    if more[1]["image_interval"] is None or less[1]["image_interval"] is None:
        return "Too few pictures for intervals: make 40 or more of each."
    if max(more[1]["n"], less[1]["n"]) > 1.1 * min(more[1]["n"], less[1]["n"]):
        return f"Of {more[1]['n']} and {less[1]['n']} pictures nothing can be said: make equally many of each."
    if more[1]["image_interval"][0] > less[1]["image_interval"][1]:
        return f"{more[0]} is more diverse than {less[0]}: their intervals lie apart."
    return f"{more[0]} and {less[0]} may be equally diverse: their intervals overlap."


class VendiScore(io.ComfyNode):
    """Vendi Score."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "VendiScore",
            "Vendi Score",
            "diversity",
            description="How many kinds of pictures are these, as CLIP sees them? Needs no prompts, so it rises with "
            "the variety of the prompts too; SCE Score tells the two apart.",
            search_aliases=[*SEARCH, "rke", "renyi"],
            inputs=[
                io.Image.Input("images", tooltip="A batch of pictures."),
                CLIP_SCORER.Input("scorer", tooltip=SCORER_TIP),
                widget(
                    io.Float,
                    "order",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip="1 is the Vendi score; higher orders look at common kinds only, lower ones also at rare.",
                ),
                *_kernel_widgets(),
            ],
            outputs=[
                io.Float.Output("VENDI", display_name="vendi", tooltip="The effective number of kinds, of this order."),
                io.Float.Output("RKE", display_name="rke", tooltip="The same of order 2, known as RKE."),
                io.String.Output("INFO", display_name="info", tooltip="Both in words."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, scorer: Scorer, order: float, kernel: str, sigma: float) -> io.NodeOutput:
        """Score."""
        embedded, options = embed_pictures(images, scorer), _kernel(kernel, sigma)
        vendi, rke = vendi_score(embedded, order=order, **options), rke_score(embedded, **options)
        name = "Vendi score" if order == 1 else f"Vendi score of order {order:g}"
        return io.NodeOutput(vendi, rke, f"{name} {vendi:.2f}, RKE {rke:.2f}, of {_pictures(len(images))}")


NODES = [SCEScore, VendiScore]

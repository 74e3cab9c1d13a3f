"""The bias compass: where a checkpoint's pictures of plain prompts lie between poles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.directions import Reading, compare
from ..core.directions.compass import pole_name
from .caption_runs import caption_run, run_widget, run_widgets
from .captions import SEARCH
from .compass_plot import compass_plot
from .embeddings import lines_of
from .fingerprint import architecture
from .schema import io, schema, to_image, ui, widget

# Above this, seeds agree on what sets two poles apart no better than chance would.
UNSURE = 0.05


class BiasCompass(io.ComfyNode):
    """Bias Compass."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "BiasCompass",
            "Bias Compass",
            "captions",
            description="What does the model assume when a prompt doesn't say? Reads, without decoding a picture, "
            "where plain prompts lie between poles such as woman and man: as shares, with 95 % intervals.",
            search_aliases=[*SEARCH, "bias", "stereotype", "gender bias", "scalex"],
            inputs=[
                io.Model.Input("model", tooltip="The model to read, with LoRAs and the like already on it."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                widget(
                    io.String,
                    "prompts",
                    default="a photo of a doctor\na photo of a nurse",
                    multiline=True,
                    tooltip="Prompts that leave it open, one a line.",
                ),
                widget(
                    io.String,
                    "poles",
                    default="{}, woman\n{}, man",
                    multiline=True,
                    tooltip="2 to 8 answers, one a line; {} stands for the prompt. Together they should cover what the "
                    "model draws.",
                ),
                *run_widgets(
                    64, 4, "Samples of each prompt and of each pole of it. A rare kind needs many: 1,000 see 1 %.", 4
                ),
                run_widget("compass"),
            ],
            outputs=[
                io.String.Output("TABLE", display_name="table", tooltip="Shares and leans, with 95 % intervals."),
                io.Image.Output("PLOT", display_name="plot", tooltip="The same as a picture."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, prompts: str, poles: str, run: str, **sampling: Any) -> io.NodeOutput:
        """Read."""
        asked, between = lines_of(prompts), lines_of(poles)
        made = caption_run(model, clip, **sampling)
        folder = made.folder(run, [*asked, *between])
        readings = compare(made.backend, asked, between, folder=folder, **made.options)
        table = compass_table(readings)
        kept = f"{readings[0].seeds:,} seeds, {made.options['site']} of {architecture(model)}"
        plot = compass_plot(readings, kept)
        return io.NodeOutput(table, to_image([plot]), ui=ui.PreviewText(table))


def compass_table(readings: Sequence[Reading]) -> str:
    """Shares of the poles for each prompt, and how sure each lean is."""
    lines = []
    for reading in readings:
        lines.append(reading.prompt)
        for pole, (share, low, high) in reading.shares.items():
            lines.append(f"  {pole_name(pole)}: {100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f})")
        for lean in reading.leans:
            first, second = pole_name(lean.first), pole_name(lean.second)
            sure = "" if lean.p <= UNSURE else f"; the model hardly tells them apart (p {lean.p:.2f})"
            lines.append(f"  {second} -1 .. +1 {first}: {lean}{sure}")
    return "\n".join(lines)


NODES = [BiasCompass]

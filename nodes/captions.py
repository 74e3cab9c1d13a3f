"""Nodes that record what a model does under captions, and keep that in files."""

from __future__ import annotations

from typing import Any

from ..core.directions import CaptionIndex, behind, check_captions, read_bank
from . import folders
from .caption_runs import caption_run, run_widget, run_widgets
from .embeddings import lines_of
from .schema import INDEX, io, schema, ui, widget
from .widgets import any_checkpoint_widget, content_widget, file_widget, save_model_file, save_widgets, saved_output

KIND = "captions"
SEARCH = ["hapax", "caption", "direction", "h-space", "semantic"]
GENERAL, BELOW = "general (over 250 captions)", "only those below"
_BANKS = (".txt", ".csv", ".jsonl")


class BuildCaptionIndex(io.ComfyNode):
    """Build Caption Index."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "BuildCaptionIndex",
            "Build Caption Index",
            "captions",
            description="What does the model do inside when it is asked for this, and for that? Samples a bank of "
            "captions with the same noise and keeps, for each, the direction in which it changes the model's state. "
            "With it captions become directions, and directions get names. It can be interrupted: queued again, it "
            "goes on where it stopped.",
            search_aliases=[*SEARCH, "bank", "decoding diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The model to listen to, with LoRAs and the like already on it."),
                io.Clip.Input("clip", tooltip="Its text encoder, which reads the captions."),
                widget(
                    io.Combo,
                    "bank",
                    options=[GENERAL, BELOW, *folders.input_files(_BANKS)],
                    default=GENERAL,
                    tooltip="Where captions come from: the general bank that ships (people, places, styles, materials, "
                    "moods, light), or a .txt, .csv or .jsonl file in ComfyUI's input folder. Those below are added.",
                ),
                widget(
                    io.String,
                    "captions",
                    default="",
                    multiline=True,
                    tooltip="More captions, one a line.",
                ),
                widget(
                    io.String,
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="Say each caption behind these prompts too, with a comma, as in: a photo of a cook, line "
                    "sketch. What the caption adds to the prompt is then known by itself, which names features of that "
                    "prompt far better. One a line; empty takes the captions alone.",
                ),
                *run_widgets(8, 2, "Samples of each caption. More seeds, less noise in the directions.", 4),
                widget(
                    io.String,
                    "neutral",
                    default="",
                    advanced=True,
                    tooltip="The neutral prompt, which pictures are compared with; best left empty.",
                ),
                widget(
                    io.Float,
                    "whiten",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Compare directions after whitening by the bank, shrunk by this share; 0 compares them as "
                    "they are. About 0.5 helps a bank without prompts. With a VAE, 0 means 0.5, which is best there.",
                ),
                run_widget("captions"),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Wire it for an index that describes pictures: each caption's pictures are then finished, "
                    "and what the model sees in them is recorded. Leave it out to name features and directions.",
                ),
            ],
            outputs=[
                INDEX.Output("INDEX", display_name="index", tooltip="For Look Up Caption and Describe Direction."),
                io.String.Output(
                    "SUMMARY", display_name="summary", tooltip="How much was recorded, and how sure it is."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        bank: str,
        captions: str,
        prompts: str,
        neutral: str,
        whiten: float,
        run: str,
        vae: Any = None,
        **sampling: Any,
    ) -> io.NodeOutput:
        """Record and index."""
        every = check_captions(behind(lines_of(prompts), _captions(bank, captions)))
        made = caption_run(model, clip, vae=vae, **sampling)
        folder = made.folder(run, [*every, neutral])
        options = {**made.options, "neutral": neutral, "whiten": whiten or None, "folder": folder}
        index = CaptionIndex.build(made.backend, every, for_pictures=vae is not None, **options)
        text = summary(index)
        return io.NodeOutput(index, text, ui=ui.PreviewText(text))


def _captions(bank: str, more: str) -> tuple[str, ...]:
    """The captions of a bank and those of a widget, each once."""
    if bank == BELOW:
        found: tuple[str, ...] = ()
    else:
        found = read_bank(None if bank == GENERAL else folders.input_file(bank))
    return tuple(dict.fromkeys([*found, *lines_of(more)]))


def summary(index: CaptionIndex) -> str:
    """What an index holds, in words."""
    meta, told = index.meta, int(index.reliable.sum())
    return (
        f"{len(index)} captions at {index.site} of {meta['architecture']}: {len(meta['seeds'])} seeds, "
        f"{meta['recipe']['steps']} steps, {meta['channels']} channels; {told} have a direction that is more than noise"
    )


class LoadCaptionIndex(io.ComfyNode):
    """Load Caption Index."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadCaptionIndex",
            "Load Caption Index",
            "captions",
            description="Load a caption index from models/hapax/captions.",
            search_aliases=SEARCH,
            inputs=[
                file_widget(KIND, "index_name"),
                any_checkpoint_widget("built with", "What it says of them is less certain."),
                content_widget(),
            ],
            outputs=[
                INDEX.Output("INDEX", display_name="index", tooltip="For Look Up Caption and Describe Direction."),
                io.String.Output("SUMMARY", display_name="summary", tooltip="What it holds, and how sure it is."),
            ],
        )

    @classmethod
    def validate_inputs(cls, index_name: str | None = None, content: str | None = "") -> bool | str:
        """Say what is missing."""
        return folders.valid(folders.model_file, index_name, content)

    @classmethod
    def fingerprint_inputs(cls, index_name: str, content: str = "", **_: Any) -> str:
        """Load again when the file has changed."""
        return folders.fingerprint(index_name, content)

    @classmethod
    def execute(cls, index_name: str, any_checkpoint: bool, content: str = "") -> io.NodeOutput:
        """Load."""
        index = CaptionIndex.load(folders.model_file(index_name, content))
        if any_checkpoint:
            index.meta.pop("model", None)
        return io.NodeOutput(index, summary(index))


class SaveCaptionIndex(io.ComfyNode):
    """Save Caption Index."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SaveCaptionIndex",
            "Save Caption Index",
            "captions",
            description="Save a caption index to models/hapax/captions, to use it again without sampling.",
            search_aliases=SEARCH,
            is_output_node=True,
            inputs=[
                INDEX.Input("index", tooltip="The index to save."),
                *save_widgets(KIND, "my_captions"),
            ],
            outputs=[saved_output("Load Caption Index")],
        )

    @classmethod
    def execute(cls, index: CaptionIndex, filename: str, overwrite: bool) -> io.NodeOutput:
        """Save."""
        return save_model_file(KIND, filename, overwrite, index.save)


NODES = [BuildCaptionIndex, LoadCaptionIndex, SaveCaptionIndex]

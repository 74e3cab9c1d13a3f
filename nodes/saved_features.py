"""The node that brings the features of a saved audit back, wherever its folder has gone."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import HapaxError
from ..core.feature_file import load_features
from ..core.library import FEATURES, features_file
from . import folders
from .content import has_content
from .listing import feature_ui
from .schema import FEATURES as FEATURES_WIRE
from .schema import io, schema, widget


def find(audit: str, content: str, prompt: int = 1) -> Path:
    """The folder of the features of an audit's prompt: the one of that name, or else any with exactly these.

    Raises:
        HapaxError: there is none; the sentence says what to put where.
    """
    content, file = content.strip(), features_file(prompt - 1)
    names = [name for name in folders.output_folders(FEATURES) if name != folders.NOTHING]
    named = [audit] if audit in names else []
    # An imported audit may have another name here: its content is what counts.
    for name in [*named, *(names if content else [])]:
        folder = folders.existing_output_folder(name)
        if (folder / file).is_file() and has_content(folder / file, content):
            return folder
    if named and not (folders.existing_output_folder(audit) / file).is_file():
        raise HapaxError(
            f"The audit {audit!r} has no features of a prompt number {prompt}; give the number of one of its prompts."
        )
    if named:
        raise HapaxError(
            f"The features in output/{folders.FOLDER}/{audit} are others than this workflow was made with (SHA-256 "
            f"{content[:12]}...); import the audit that it came with, or empty `content` to take what is there."
        )
    raise HapaxError(
        f"There is no audit {audit!r} with a {FEATURES} in ComfyUI's output/{folders.FOLDER}; put its folder there or "
        "import its zip in the Hapax tab, or make it again with Save Audit."
    )


class LoadFeatures(io.ComfyNode):
    """Load Features."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "LoadFeatures",
            "Load Features",
            "features",
            description="Load the features of an audit that Save Audit or the command `hapax audit` wrote: nothing is "
            "recorded or trained again. "
            "The Hapax tab puts this node into the graph when a feature is turned up from its pictures.",
            search_aliases=["hapax", "open audit", "saved features", "feature"],
            inputs=[
                widget(
                    io.Combo,
                    "audit",
                    options=folders.output_folders(FEATURES),
                    tooltip="A folder of output/hapax with an audit in it; press R to see new ones.",
                ),
                widget(
                    io.String,
                    "content",
                    default="",
                    advanced=True,
                    tooltip="The SHA-256 of the features that are meant. They are found by it under any name, and "
                    "others of the same name are refused. Empty takes what is there.",
                ),
                widget(
                    io.Int,
                    "prompt",
                    default=1,
                    min=1,
                    max=1_000_000,
                    optional=True,
                    advanced=True,
                    tooltip="Which of the audit's prompts, in its order. Audits of Save Audit have one.",
                ),
            ],
            outputs=[
                FEATURES_WIRE.Output(
                    "FEATURES",
                    display_name="features",
                    tooltip="The features, for Show Feature, Amplify Feature and others.",
                ),
                io.String.Output("TABLE", display_name="table", tooltip="The list as text, with intervals."),
            ],
        )

    @classmethod
    def validate_inputs(cls, audit: str, content: str, prompt: int = 1) -> bool | str:
        """Say what is missing before anything runs; a folder of another name is no error if its content is right."""
        try:
            find(audit, content, prompt)
        except HapaxError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, audit: str, content: str, prompt: int = 1) -> str:
        """Load again when the file has changed."""
        try:
            path = find(audit, content, prompt) / features_file(prompt - 1)
        except HapaxError:
            return ""
        state = path.stat()
        return f"{path} {state.st_mtime_ns} {state.st_size}"

    @classmethod
    def execute(cls, audit: str, content: str, prompt: int = 1) -> io.NodeOutput:
        """Load."""
        features = load_features(find(audit, content, prompt), prompt - 1)
        return io.NodeOutput(features, features.text(), ui=feature_ui(features))


NODES = [LoadFeatures]

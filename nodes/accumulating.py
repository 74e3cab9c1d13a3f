"""A node that adds up diversity over queue runs, and the file in which it keeps the sums."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import HapaxError
from ..core.sce import SCE, SchurComplementEntropy
from ..core.tensor_file import check_header, read_tensors, write_tensors
from . import folders
from .diversity import SEARCH, of_prompts, pair_inputs, ridge_widget, score_outputs, score_table
from .embeddings import embed_pictures, embed_texts, prompts_for
from .plots import growth_plot
from .schema import io, schema, to_image, ui, widget
from .scoring import Scorer

_FOLDER, _FILE = "diversity", "sums.safetensors"
_FORM, _VERSION = "hapax.diversity_sums", 1
_SUMS = ("n", "ii", "it", "tt", "keys")


@dataclass
class Sums:
    """What is kept between runs: three d x d matrices, and 8 bytes a prompt and 32 a run.

    Attributes:
        clip: (name, fingerprint) of the model that the embeddings are of.
        state: of the accumulator.
        batches: [r] keys of the batches that are in it.
        history: [r, 3] pictures, kinds beyond the prompts and kinds owed to them, after each.
    """

    clip: tuple[str, str]
    state: dict[str, Tensor] = field(default_factory=dict)
    batches: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    history: Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.float64))

    @classmethod
    def load(cls, path: Path) -> Sums:
        """Read the file.

        Raises:
            HapaxError: it is damaged or of another kind.
        """
        tensors, header = read_tensors(path, "diversity collection")
        check_header(path, header, _FORM, _VERSION, "a diversity collection of Hapax; choose another name")
        missing = {*_SUMS, "batches", "history"} - tensors.keys()
        if missing or "clip" not in header:
            raise HapaxError(f"{path} lacks {', '.join(sorted(missing)) or 'clip'}; turn reset on to begin anew.")
        state = {name: tensors[name] for name in _SUMS}
        return cls((header["clip"], header.get("fingerprint", "")), state, tensors["batches"], tensors["history"])

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        header = {"format": _FORM, "version": str(_VERSION), "clip": self.clip[0], "fingerprint": self.clip[1]}
        write_tensors(path, self.state | {"batches": self.batches, "history": self.history}, header)


class SCEAccumulate(io.ComfyNode):
    """SCE Accumulate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and comes out."""
        return schema(
            "SCEAccumulate",
            "SCE Accumulate",
            "diversity",
            description="SCE Score over as many queue runs as you like, in memory that doesn't grow: each run adds its "
            "pictures to a collection that has a name. The same batch is never counted twice.",
            search_aliases=[*SEARCH, "streaming", "running score", "collect"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                *pair_inputs(),
                widget(
                    io.String,
                    "name",
                    default="collection",
                    tooltip="Of the collection, a folder in output/hapax/diversity. Use one for each setting.",
                ),
                widget(
                    io.Boolean,
                    "reset",
                    default=False,
                    tooltip="Forget the collection first, and begin it with these pictures. Turn it off again before "
                    "the next run.",
                ),
                ridge_widget(),
            ],
            outputs=[
                *score_outputs("of the collection"),
                io.Int.Output("PICTURES", display_name="pictures", tooltip="How many pictures are in the collection."),
                io.String.Output("TABLE", display_name="table", tooltip="All values in words."),
                io.Image.Output("PLOT", display_name="plot", tooltip="How the score moved as pictures came in."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str, **_: Any) -> str:
        """Run again when the collection was changed by another node, or deleted."""
        try:
            path = folders.existing_output_folder(f"{_FOLDER}/{name.strip()}") / _FILE
        except HapaxError:
            return ""
        return str(path.stat().st_mtime_ns) if path.is_file() else ""

    @classmethod
    def execute(
        cls, images: Tensor, scorer: Scorer, prompts: str, name: str, reset: bool, ridge: float
    ) -> io.NodeOutput:
        """Add the batch, unless it is in already, and score the whole."""
        if not name.strip():
            raise HapaxError("The collection has no name; give it one, such as the setting that it is of.")
        given = prompts_for(prompts, len(images))
        path = folders.output_folder(f"{_FOLDER}/{name.strip()}") / _FILE
        sums, new = _open(path, scorer, reset, key := batch_key(images, given)), 0
        whole = SchurComplementEntropy(ridge=ridge)
        whole.load_state_dict(sums.state)
        if key not in sums.batches.tolist():
            whole.update(embed_pictures(images, scorer), embed_texts(given, scorer))
            new = len(images)
        score, notes = _score(whole, ridge)
        if new:
            point = torch.tensor([[score.n, score.image_effective, score.text_effective]], dtype=torch.float64)
            sums.state = whole.state_dict()
            sums.batches, sums.history = (
                torch.cat([sums.batches, torch.tensor([key])]),
                torch.cat([sums.history, point]),
            )
            sums.save(path)
        runs = f"{new} new" if new else "this batch was in already"
        table = "\n".join([*score_table([(f"{name.strip()} ({runs})", score._asdict())]), *notes])
        title = f"{score.image_effective:.2f} kinds beyond the prompts"
        plot = growth_plot(
            sums.history, title, f"{name.strip()}: {of_prompts(score.n, score.unique_texts)}, {scorer.name}"
        )
        values = score.image, score.image_effective, score.n, table, to_image([plot])
        return io.NodeOutput(*values, ui=ui.PreviewText(table))


def _open(path: Path, scorer: Scorer, reset: bool, key: int) -> Sums:
    """The collection to add to; with `reset` an empty one, unless the batch is all there is in it."""
    fresh = Sums((scorer.name, scorer.fingerprint))
    if not path.is_file():
        return fresh
    if reset:
        try:
            sums = Sums.load(path)
        except HapaxError:
            return fresh
        return sums if sums.batches.tolist() == [key] and sums.clip == fresh.clip else fresh
    sums = Sums.load(path)
    if sums.clip != fresh.clip:
        raise HapaxError(
            f"The collection was made with the CLIP scorer {sums.clip[0]}, but this is {scorer.name} with other "
            "weights or another architecture; use that scorer, another name, or turn reset on."
        )
    return sums


def _score(whole: SchurComplementEntropy, ridge: float) -> tuple[SCE, list[str]]:
    """The score, and what there is to say about it; a single picture is of one kind."""
    state = whole.state_dict()
    if int(state["n"]) < 2:
        return SCE(1.0, 1.0, 1.0, 1.0, 0.0, 1.0, ridge, 1, 1), ["note: diversity needs at least 2 pictures; run again."]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        score = whole.compute()
    # Cross-fitting, which the warning offers, needs all pictures at once.
    if not told:
        return score, []
    return score, ["note: nearly all prompts differ, so how much they explain is mostly decided by the ridge."]


def batch_key(images: Tensor, prompts: list[str]) -> int:
    """64 bits that say which pictures of which prompts these are."""
    digest = hashlib.sha256("\n".join(prompts).encode())
    digest.update(repr(tuple(images.shape)).encode())
    for image in images:
        digest.update(image.float().cpu().contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


NODES = [SCEAccumulate]

"""What the recording nodes share: which steps and places are recorded, and the store in `output/hapax`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfyui_version import __version__ as comfyui_version
from PIL import Image
from torch import Tensor

from .. import __version__
from ..core.activation_header import HISTORY_KEYS, Header
from ..core.activation_layout import Identity
from ..core.activation_reader import ActivationReader
from ..core.activation_shards import Shard, Unwritten
from ..core.activations import ActivationStore, regular_positions
from ..core.collect import Recording, thumbnail
from ..core.sites import Site
from . import folders
from .comfy_sites import grid_at
from .comfy_steps import schedule_labels
from .fingerprint import architecture, model_fingerprint, patches_fingerprint
from .schema import to_image

SHEET_COLUMNS, SHEET_ROWS = 8, 3


class Chosen(ActivationReader):
    """The pictures of a store that were asked for; others that lie beside them are not seen.

    So what is found depends on the settings alone, not on what else was recorded into the folder.
    """

    def __init__(self, folder: Path, identities: Iterable[Identity] | None = None) -> None:
        self._wanted = None if identities is None else frozenset(identities)
        super().__init__(folder, Header.read(folder))

    def _register(self, shard: Shard | Unwritten) -> None:
        super()._register(shard)
        if self._wanted is not None:
            self._places = {key: place for key, place in self._places.items() if key in self._wanted}


@dataclass(frozen=True)
class Picture:
    """One picture to keep: what it is known by, its tokens `[S, P, C]`, and how it looks."""

    prompt: str
    seed: int
    tokens: Tensor
    picture: Image.Image


def plan(model: Any, site: Site, sigmas: Tensor, size: tuple[int, int], record_steps: int, positions: int) -> Recording:
    """Choose what is recorded of each picture: of the steps that start at `sigmas` the middle of each of
    `record_steps` stretches, and about `positions` places of the site's grid for a latent of `size` (H, W)."""
    _, _, progress = schedule_labels(model.get_model_object("model_sampling"), sigmas[sigmas > 0])
    calls = sorted({round(each, 6) for each in progress.tolist()})
    count = min(record_steps, len(calls))
    grid = grid_at(model, site, *size)
    chosen = tuple(calls[int((i + 0.5) * len(calls) / count)] for i in range(count))
    return Recording(str(site), chosen, regular_positions(*grid, positions), grid, site.channels)


def provenance(model: Any, recording: Recording, scorer: Any, **sampling: Any) -> dict[str, Any]:
    """Say what was recorded, and how the pictures were made; pictures of equal provenance belong together."""
    return {
        "architecture": architecture(model),
        "model": model_fingerprint(model),
        "patches": patches_fingerprint(model),
        "site": recording.site,
        "clip": None if scorer is None else scorer.fingerprint,
        "sampling": sampling,
        "grid": list(recording.grid),
        "steps": list(recording.progress),
        "positions": recording.positions.tolist(),
        "versions": {"hapax": __version__, "torch": str(torch.__version__), "comfyui": comfyui_version},
    }


def open_store(run: str, made: Mapping[str, Any], site: Site) -> ActivationStore:
    """Open `output/hapax/<run>-<settings>` for writing: begin it, or go on where it was left.

    Each provenance has a folder of its own, so changed settings never meet what was recorded under others.
    """
    identifying = {key: value for key, value in made.items() if key not in HISTORY_KEYS}
    # The blocks of a DiT reach values that float16 can't hold.
    dtype = torch.float16 if site.name in ("mid", "eps") else torch.bfloat16
    store = ActivationStore.open_or_create(folders.settings_folder(run, identifying), made, dtype=dtype)
    store.verify()
    store.drop_damaged()
    return store


def keep(store: ActivationStore, batch: Sequence[Picture], recording: Recording, scorer: Any) -> int:
    """Append those pictures of a batch that the store lacks; return how many."""
    new = [each for each in batch if (each.prompt, each.seed) not in store]
    embeddings = scorer.images([each.picture for each in new]) if scorer is not None and new else None
    for row, each in enumerate(new):
        sample = {
            "prompt": each.prompt,
            "seed": each.seed,
            "caption": each.prompt,
            "thumbnail": thumbnail(each.picture),
        }
        if embeddings is not None:
            sample["embedding"] = embeddings[row]
        store.append(sample, each.tokens.flatten(0, 1), recording.labels())
    return len(new)


def contact_sheet(store: ActivationReader) -> Tensor:
    """The first pictures of a store as an IMAGE `[1, H, W, 3]`, eight a row."""
    pictures = store.thumbnails(range(min(len(store), SHEET_COLUMNS * SHEET_ROWS)))
    blank = -len(pictures) % min(SHEET_COLUMNS, len(pictures))
    pictures = torch.cat((pictures, pictures.new_zeros(blank, *pictures.shape[1:])))
    rows = [torch.cat(list(row), 1) for row in pictures.split(min(SHEET_COLUMNS, len(pictures)))]
    return to_image([torch.cat(rows)])


def summary(store: ActivationReader, new: int) -> str:
    """Say in a line what a store holds and where it lies."""
    steps, positions, channels = store.layout.shapes()["tokens"]
    made = store.provenance
    where = "/".join((folders.FOLDER, store.folder.name))
    return (
        f"{len(store)} pictures ({new} new) at {made['site']} of {made['architecture']}: {steps} steps, "
        f"{positions} places, {channels} channels; in output/{where}"
    )

"""What decides an audit's findings, and the claim of a folder for one audit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .collect import Sampling
from .directions.compass import check_poles
from .durable import write_file
from .errors import HapaxError
from .findings import SAESize
from .minority import Normalize


@dataclass(frozen=True)
class AuditSettings:
    """Everything that decides what an audit finds; it is written into the folder and must agree on resuming.

    Attributes:
        prompts: what is asked of the model, one audit each.
        images: pictures per prompt; their seeds are seed, seed + 1, ...
        site: where activations are read.
        sampling: steps, guidance, batch size and the pipeline's size options.
        record_steps, positions: steps and token positions recorded of each picture.
        sae: the size of the autoencoder that is trained for each prompt.
        sae_file: an autoencoder to use for all prompts instead.
        listed: features shown per prompt, at most.
        rare: largest share of the pictures that show a listed feature.
        amplified: how many of them are also turned up.
        bank: captions that features are named with.
        index: file of a caption index that names them in place of the bank, by what the model itself does.
        poles: what plain prompts are read between, `{}` being the prompt; none reads nothing.
        compass_seeds: samples of each prompt and pole for that.
        guidance_file: of a guidance module, whose pictures are compared with the model's own at equal seeds.
        strength: of it.
        labels: the groups in which those pictures are counted by CLIP, `{}` being the prompt.
        normalize, min_support, seed: as in `score_features`.
    """

    prompts: tuple[str, ...]
    sampling: Sampling
    images: int = 1000
    site: str = "mid"
    record_steps: int = 5
    positions: int = 64
    sae: SAESize = field(default_factory=SAESize)
    sae_file: str | None = None
    listed: int = 10
    rare: float = 0.15
    amplified: int = 1
    bank: tuple[str, ...] = ()
    index: str | None = None
    poles: tuple[str, ...] = ()
    compass_seeds: int = 128
    normalize: Normalize = "rank"
    min_support: int = 5
    seed: int = 0
    guidance_file: str | None = None
    strength: float = 1.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.guidance_file and (len(set(self.labels)) < 2 or len(set(self.labels)) < len(self.labels)):
            raise HapaxError(
                f"There is a guidance module, {self.guidance_file}, but the labels are {list(self.labels)}; give two "
                "groups or more to count, each once."
            )
        if self.labels and not self.guidance_file:
            raise HapaxError("There are labels to count but no guidance module; give its file too.")
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise HapaxError("The prompts are empty; give at least one, one a line.")
        if len(set(self.prompts)) != len(self.prompts):
            raise HapaxError("A prompt is given twice; give each once.")
        for name, least in (
            ("images", 50),
            ("record_steps", 1),
            ("positions", 1),
            ("listed", 1),
            ("min_support", 5),
            ("compass_seeds", 4),
        ):
            if getattr(self, name) < least:
                raise HapaxError(f"{name} is {getattr(self, name)}; give {least} or more.")

        if not 0 < self.rare <= 1:
            raise HapaxError(f"rare is {self.rare}; give a share above 0 and up to 1.")
        if self.poles:
            check_poles(self.poles)

    def seeds(self) -> range:
        """The seeds of the scored pictures; amplification uses those after them."""
        return range(self.seed, self.seed + self.images)


def claim(out: Path, wanted: dict[str, Any], resume: bool) -> None:
    """Make the folder the audit's with these settings, or see that it is.

    Raises:
        HapaxError: the folder holds an audit and `resume` is False, or it was begun with other settings.
    """
    path, wanted = out / "settings.json", json.loads(json.dumps(wanted))
    if path.exists():
        if not resume:
            raise HapaxError(f"{out} holds an audit already; add --resume to go on, or choose another --out.")
        try:
            held = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise HapaxError(f"{path} is damaged ({error}); choose another --out.") from error
        if differs := ", ".join(sorted(key for key in wanted if held.get(key) != wanted[key])):
            raise HapaxError(
                f"{out} was begun with another {differs}; repeat the settings it was begun with "
                "(settings.json there has them), or choose another --out."
            )
    write_file(path, json.dumps(wanted, indent=1).encode())

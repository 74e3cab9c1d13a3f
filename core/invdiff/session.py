"""A guidance module from start to end in one folder: pictures, groups, training; each part is kept and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..backends.diffusers import DiffusersBackend
from ..collect import Progress, Sampling
from ..distributed import barrier, rank
from ..embed import ClipEmbedder
from ..errors import HapaxError
from ..tensor_file import as_json, check_header, read_tensors, write_tensors
from .data import PictureSet, decode, make_pictures, read_pictures
from .files import save_guidance
from .groups import infer_groups
from .probes import probe_losses
from .spread import spread_probabilities
from .training import GuidanceConfig, train_guidance

_FORMAT, _VERSION = "hapax.groups", 1


@dataclass(frozen=True)
class SessionSettings:
    """What groups are inferred from.

    Attributes:
        prompts: the model makes `images` pictures of each; empty if there is a folder.
        pictures: a folder of captioned pictures, or None.
        images: pictures a prompt.
        sampling: how they are made.
        groups: a prompt.
        by: `losses` of the frozen model at probes, or `clip` embeddings.
        seed: first of the pictures' seeds, and the groups' seed.
    """

    prompts: Sequence[str]
    pictures: Path | None
    images: int
    sampling: Sampling
    groups: int = 32
    by: str = "losses"
    seed: int = 0


class GuidanceSession:
    """Trains one guidance module in a folder; see `SessionSettings` and `GuidanceConfig`."""

    def __init__(
        self,
        backend: DiffusersBackend,
        settings: SessionSettings,
        config: GuidanceConfig,
        out: Path,
        report: Progress,
        clip: Callable[[], ClipEmbedder] | None = None,
    ) -> None:
        self.backend, self.settings, self.config, self.out = backend, settings, config, out
        self.report, self.clip = report, clip

    def run(self, *, resume: bool = False) -> Path:
        """Do what is left to do; return the module's file, `guidance.safetensors`.

        Raises:
            HapaxError: the folder holds a training and `resume` is not asked for, or it is of other settings.
        """
        if not resume and any(self.out.glob("*.safetensors")):
            raise HapaxError(f"{self.out} holds a training already; add --resume to go on with it, or choose another.")
        barrier()
        pictures = self._pictures()
        weights, probabilities = self._groups(pictures)
        module = train_guidance(
            self.backend,
            pictures,
            weights,
            self.config,
            probabilities=probabilities,
            folder=self.out,
            progress=lambda done, total, _: self.report("training", done, total),
            meta={"groups_by": self.settings.by},
        )
        path = self.out / "guidance.safetensors"
        if rank() == 0:
            save_guidance(module, path)
        barrier()
        return path

    def _pictures(self) -> PictureSet:
        settings = self.settings
        if settings.pictures is not None:
            return read_pictures(self.backend, settings.pictures, progress=self.report, **settings.sampling.size)
        seeds = range(settings.seed, settings.seed + settings.images)
        return make_pictures(
            self.backend,
            settings.prompts,
            seeds,
            settings.sampling,
            folder=self.out / "pictures",
            progress=self.report,
        )

    def _groups(self, pictures: PictureSet) -> tuple[Tensor, Tensor]:
        """Infer the groups, or read them: weights [N, G] and probabilities [N]."""
        path, settings = self.out / "groups.safetensors", self.settings
        identity = as_json([self.backend.fingerprint(), settings.by, settings.groups, settings.seed, pictures.ids])
        if path.exists():
            tensors, header = read_tensors(path, "table of groups")
            check_header(path, header, _FORMAT, _VERSION, "a table of groups")
            if header.get("identity") != identity:
                raise HapaxError(f"{path} is of other pictures or settings; go on with those, or choose another --out.")
            return tensors["weights"], tensors["probabilities"]
        table = self._table(pictures)
        weights = infer_groups(table, settings.groups, seed=settings.seed, prompt=pictures.prompt)
        probabilities = spread_probabilities(table, pictures.prompt)
        if rank() == 0:
            ids = as_json({"ids": pictures.ids, "prompts": pictures.prompts})
            header = {"format": _FORMAT, "version": str(_VERSION), "identity": identity, "samples": ids}
            tensors = {"table": table, "weights": weights, "probabilities": probabilities, "prompt": pictures.prompt}
            write_tensors(path, tensors, header)
        barrier()
        return weights, probabilities

    def _table(self, pictures: PictureSet) -> Tensor:
        """What the groups are inferred from: [N, P]."""
        if self.settings.by == "losses":
            return probe_losses(self.backend, pictures, progress=self.report)
        if self.clip is None:
            raise HapaxError("Groups by CLIP need a CLIP model, and none was given; give one, or use losses.")
        embedder, rows = self.clip(), []
        for number, picture in enumerate(decode(self.backend, pictures), 1):
            rows.append(embedder.images([picture]))
            self.report("embedding", number, len(pictures))
        return torch.cat(rows).float().cpu()

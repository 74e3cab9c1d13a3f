"""A guidance module from start to end in one folder: pictures, groups, training; each part is kept and gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..backends.diffusers import DiffusersBackend
from ..collect import Progress, Sampling
from ..distributed import barrier, rank
from ..embed import ClipEmbedder
from ..errors import HapaxError
from ..tensor_file import as_json, check_header, read_tensors, write_tensors
from .data import Maker, PictureSet, decode, make_pictures, read_pictures
from .evaluation import Guided
from .files import save_guidance
from .groups import infer_groups
from .module import GuidanceModule
from .probes import probe_losses
from .rounds import joined, later, ordinary
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
        rounds: of training; each but the first goes on with the module, also on pictures that were made under it.

    Raises:
        HapaxError: no round, or several of a folder of pictures.
    """

    prompts: Sequence[str]
    pictures: Path | None
    images: int
    sampling: Sampling
    groups: int = 32
    by: str = "losses"
    seed: int = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise HapaxError(f"rounds is {self.rounds}; give 1 or more.")
        if self.rounds > 1 and self.pictures is not None:
            raise HapaxError(
                f"rounds is {self.rounds}, but the pictures are those of a folder; give 1, or prompts of which the "
                "model makes pictures."
            )


class Known(NamedTuple):
    """What was found out about N pictures.

    Fields:
        table: `[N, P]`.
        kept: `[N]` bool, M of them True: what is trained on.
        weights: `[M, G]`; probabilities: `[M]`.
    """

    table: Tensor
    kept: Tensor
    weights: Tensor
    probabilities: Tensor


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
        known = self._known(self.out, pictures)
        module = self._train(self.out, pictures, known, self.config)
        for number in range(2, self.settings.rounds + 1):
            module = self._again(number, pictures, known.table, module)
        path = self.out / "guidance.safetensors"
        if rank() == 0:
            save_guidance(module, path)
        barrier()
        return path

    def _again(self, number: int, own: PictureSet, table: Tensor, module: GuidanceModule) -> GuidanceModule:
        """Train the module on, also on pictures that were made under it."""
        folder = self.out / f"round-{number}"
        guided = self._made(Guided(self.backend, module.to(self.backend.denoiser.device)), folder)
        pictures = joined(own, guided, number)
        known = self._known(folder, pictures, table)
        return self._train(folder, pictures, known, later(self.config), module)

    def _train(
        self,
        folder: Path,
        pictures: PictureSet,
        known: Known,
        config: GuidanceConfig,
        start: GuidanceModule | None = None,
    ) -> GuidanceModule:
        return train_guidance(
            self.backend,
            pictures.part(known.kept),
            known.weights,
            config,
            probabilities=known.probabilities,
            start=start,
            folder=folder,
            progress=lambda done, total, _: self.report("training", done, total),
            meta={"groups_by": self.settings.by, "rounds": self.settings.rounds},
        )

    def _pictures(self) -> PictureSet:
        settings = self.settings
        if settings.pictures is not None:
            return read_pictures(self.backend, settings.pictures, progress=self.report, **settings.sampling.size)
        return self._made(self.backend, self.out)

    def _made(self, maker: Maker, folder: Path) -> PictureSet:
        settings = self.settings
        seeds = range(settings.seed, settings.seed + settings.images)
        kept = folder / "pictures"
        return make_pictures(maker, settings.prompts, seeds, settings.sampling, folder=kept, progress=self.report)

    def _known(self, folder: Path, pictures: PictureSet, own: Tensor | None = None) -> Known:
        """Infer the groups, or read them; `own` [n, P] is what is known of the first n pictures, the model's own."""
        path, settings = folder / "groups.safetensors", self.settings
        identity = as_json([self.backend.fingerprint(), settings.by, settings.groups, settings.seed, pictures.ids])
        if path.exists():
            tensors, header = read_tensors(path, "table of groups")
            check_header(path, header, _FORMAT, _VERSION, "a table of groups")
            if header.get("identity") != identity:
                raise HapaxError(f"{path} is of other pictures or settings; go on with those, or choose another --out.")
            kept = tensors.get("kept", torch.ones(len(pictures), dtype=torch.bool))
            return Known(tensors["table"], kept, tensors["weights"], tensors["probabilities"])
        if own is None:
            table, kept = self._table(pictures), torch.ones(len(pictures), dtype=torch.bool)
        else:
            table = torch.cat([own, self._table(pictures.part(torch.arange(len(own), len(pictures))))])
            kept = ordinary(table, pictures.prompt, len(own))
        prompt = pictures.prompt[kept]
        weights = infer_groups(table[kept], settings.groups, seed=settings.seed, prompt=prompt)
        known = Known(table, kept, weights, spread_probabilities(table[kept], prompt))
        if rank() == 0:
            ids = as_json({"ids": pictures.ids, "prompts": pictures.prompts})
            header = {"format": _FORMAT, "version": str(_VERSION), "identity": identity, "samples": ids}
            write_tensors(path, {**known._asdict(), "prompt": pictures.prompt}, header)
        barrier()
        return known

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

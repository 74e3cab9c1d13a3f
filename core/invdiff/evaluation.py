"""What guidance changed: bias, concept and diversity before and after at equal seeds, as audit.json holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backends.diffusers import DiffusersBackend
from ..collect import Progress, Sampling, batches
from ..embed import ClipEmbedder
from ..errors import HapaxError
from ..sce.summary import score_row
from ..statistics import wilson_interval
from .data import decode, make_pictures
from .files import module_fingerprint
from .metrics import bias_floor, bias_interval, kl_interval
from .module import GuidanceModule

Row = dict[str, Any]
_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Judged:
    """Pictures of one prompt, as CLIP or another judge sees them.

    Attributes:
        counts: `[K]` pictures in each group.
        concept: pictures that show what they are of, or None where nobody looked.
        diversity: the row of `score_row`, or None.
    """

    counts: Tensor
    concept: int | None = None
    diversity: Row | None = None

    def __post_init__(self) -> None:
        if len(self.counts) < 2 or not int(self.counts.sum()):
            raise HapaxError(f"The counts are {self.counts.tolist()}; give two groups or more, and a picture at least.")

    @property
    def total(self) -> int:
        """How many pictures."""
        return int(self.counts.sum())

    @classmethod
    def by_clip(cls, pictures: Tensor, groups: Tensor, concepts: Tensor | None = None) -> Judged:
        """Give each picture to the group whose text is nearest; the first concept is the right one.

        Args:
            pictures: `[N, E]` unit embeddings.
            groups: `[K, E]` of the groups' texts.
            concepts: `[C, E]` of the prompt and of what else the picture could show, C >= 2; None looks at none.
        """
        counts = (pictures @ groups.T).argmax(1).bincount(minlength=len(groups))
        right = None if concepts is None else int(((pictures @ concepts.T).argmax(1) == 0).sum())
        # They have one prompt, and any one text explains no more of what varies.
        diversity = score_row(pictures, groups[:1].expand(len(pictures), -1)) if len(pictures) > 1 else None
        return cls(counts, right, diversity)


def bias_row(prompt: str, names: Sequence[str], before: Judged, after: Judged) -> Row:
    """One prompt of audit.json's `invdiff`: groups, bias, divergence from even, concept, diversity.

    Raises:
        HapaxError: other numbers of groups than names.
    """
    if not len(names) == len(before.counts) == len(after.counts):
        found = f"{len(names)} names for {len(before.counts)} and {len(after.counts)} groups"
        raise HapaxError(f"There are {found}; give a name for each group, the same before and after.")
    sides = {"before": before, "after": after}
    row: Row = {"prompt": prompt, "floor": bias_floor(len(names), after.total)}
    row["groups"] = [
        {"name": name, **{end: _rate(int(side.counts[k]), side.total) for end, side in sides.items()}}
        for k, name in enumerate(names)
    ]
    for end, side in sides.items():
        for name, (value, *ends) in (("bias", bias_interval(side.counts)), ("kl", kl_interval(side.counts))):
            row |= {f"{name}_{end}": value, f"{name}_{end}_interval": ends}
        row[f"concept_{end}"] = None if side.concept is None else _rate(side.concept, side.total)
        row[f"sce_{end}"] = side.diversity
    return row


def _rate(count: int, n: int) -> Row:
    low, high = wilson_interval(count, n)
    return {"count": count, "n": n, "rate": count / n, "low": float(low), "high": float(high)}


@dataclass(frozen=True, eq=False)
class Guided:
    """A pipeline under a guidance module, at the module's strength: makes pictures as the pipeline does."""

    backend: DiffusersBackend
    module: GuidanceModule

    def identity(self) -> dict[str, Any]:
        """What the model is known by, and the module."""
        sampler = type(self.backend.pipeline.scheduler).__name__
        guidance = {"guidance": module_fingerprint(self.module), "strength": self.module.strength}
        return {**self.backend.identity(), "sampler": sampler, **guidance}

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], taps: Any, **options: Any) -> Any:
        """Sample with the module on top of other taps."""
        return self.backend.sample(prompts, seeds, {**taps, self.module.shape.site: self.module}, **options)

    def embeddings(
        self,
        embedder: ClipEmbedder,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        folder: Path,
        report: Progress,
    ) -> Tensor:
        """Unit embeddings `[U, S, E]` of one picture per prompt and seed; what lies in the folder isn't made again."""
        self.module.to(self.backend.denoiser.device)
        made = make_pictures(
            self,
            prompts,
            seeds,
            sampling,
            folder=folder,
            progress=lambda _, done, total: report("guided pictures", done, total),
        )
        pictures, rows = decode(self.backend, made), []
        for batch in batches(range(len(made)), _AT_ONCE):
            rows.append(embedder.images([next(pictures) for _ in batch]))
            report("embedding", batch[-1] + 1, len(made))
        return torch.cat(rows).unflatten(0, (len(prompts), len(seeds)))

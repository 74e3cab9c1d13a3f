"""Record what a site does under captions: mean activations over places, at paired seeds and chosen steps.

The papers that link captions to the bottleneck (arXiv 2410.21314, 2511.13750) could not be read in full. What
is done here is our own specification: H(p) = mean over seeds s and steps t of pool(h_t(p, s)), pool the mean
over places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError
from ..sites import select_site
from ..taps import Step
from .latents import read_latents
from .pictures import picture_activations
from .pooled import PooledRecorder

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Recipe:
    """How activations are recorded; two recordings compare only if made by one recipe.

    Attributes:
        site: where.
        steps: of the sampler; a few are enough.
        guidance: None is the pipeline's default; 1 runs no rows under the negative prompt and costs half.
        progress: at which points of the way, in [0, 1]; the sampler's nearest calls are taken. None is all calls.
        batch_size: samples a batch.
        size: the pipeline's size options.
        reads: what is recorded: None, what the model does while it makes a caption's pictures; or what it sees in these
            pictures afterwards, with noise on them, under this prompt.
    """

    site: str = "mid"
    steps: int = 4
    guidance: float | None = None
    progress: tuple[float, ...] | None = None
    batch_size: int = 8
    size: dict[str, Any] = field(default_factory=dict)
    reads: str | None = None

    def planned(self, backend: Any) -> Recipe:
        """This recipe with the sampler's own calls for `progress`, found by one picture; site checked."""
        calls = _Calls(self.progress or (0.0,))
        self.run(backend, [""], [0], calls)
        return replace(self, progress=calls.nearest() if self.progress else tuple(sorted(calls.seen)))

    def record(
        self,
        backend: Any,
        captions: Sequence[str],
        seeds: Sequence[int],
        report: Callable[[int, int], object] | None = None,
    ) -> Tensor:
        """Pooled activations [captions, seeds, S, C] fp32 of a planned recipe, the same seeds for each caption.

        `report` is called with (sample-steps done, of so many); an exception that it raises ends the run.
        """
        assert self.progress is not None
        prompts, listed = [caption for caption in captions for _ in seeds], list(seeds) * len(captions)
        if self.reads is not None:
            return self._read(backend, prompts, seeds, report)
        recorder = PooledRecorder(self.progress)
        self.run(backend, prompts, listed, recorder, report)
        pooled = torch.stack([recorder.take(row) for row in range(len(prompts))])
        return pooled.unflatten(0, (len(captions), len(seeds)))

    def _read(self, backend: Any, prompts: list[str], seeds: Sequence[int], report: Any) -> Tensor:
        """Make the pictures, then look at those of one seed under that seed's noise: [captions, seeds, S, C]."""
        captions, progress = len(prompts) // len(seeds), self.progress or ()

        def made(done: int, of: int) -> None:
            if report is not None:
                report(done, 2 * of)

        pictures = self._sample(backend, prompts, list(seeds) * captions, {}, "pil", made)
        options = {"progress": progress, "site": str(select_site(backend.sites, self.site)), "prompt": self.reads}
        looks = []
        for number, seed in enumerate(seeds):
            if report is not None:
                report(len(seeds) + number, 2 * len(seeds))
            alike = pictures[number :: len(seeds)]
            looks.append(picture_activations(backend, alike, seeds=[seed], batch_size=self.batch_size, **options)[:, 0])
        return torch.stack(looks, 1)

    def run(self, backend: Any, prompts: list[str], seeds: list[int], tap: Any, report: Any = None) -> None:
        """Sample with a tap at the site, and no pictures at the end."""
        self._sample(backend, prompts, seeds, {select_site(backend.sites, self.site): tap}, "latent", report)

    def _sample(
        self, backend: Any, prompts: list[str], seeds: list[int], taps: Mapping[Any, Any], output: str, report: Any
    ) -> Any:
        options = {"steps": self.steps, "guidance": self.guidance, "batch_size": self.batch_size, **self.size}
        return backend.sample(prompts, seeds, taps, output=output, progress=report, **options)


@dataclass(frozen=True)
class LatentRecipe(Recipe):
    """A recipe by which the model looks again at what it made, without the autoencoder; `reads` and `progress` are set.

    Captions that are read under one prompt differ by what is to be seen alone: while their pictures are made, what is
    recorded also has the caption's own words in it.
    """

    def _read(self, backend: Any, prompts: list[str], seeds: Sequence[int], report: Any) -> Tensor:
        assert self.reads is not None
        assert self.progress is not None
        every, looks = list(seeds) * (len(prompts) // len(seeds)), len(self.progress)
        total = len(every) * (self.steps + looks)

        def made(done: int, of: int) -> None:
            if report is not None:
                report(done, total)

        def looked(done: int) -> None:
            if report is not None:
                report(len(every) * self.steps + done * looks, total)

        latents = self._sample(backend, prompts, every, {}, "latent", made)
        options = {"prompt": self.reads, "progress": self.progress, "site": self.site, "batch_size": self.batch_size}
        found = read_latents(backend, latents, every, size=self.size, report=looked, **options)
        return found.unflatten(0, (len(prompts) // len(seeds), len(seeds)))


class _Calls:
    """Notes at which progress the sampler calls."""

    def __init__(self, wanted: Sequence[float]) -> None:
        if not all(0 <= each <= 1 for each in wanted):
            raise HapaxError(f"progress is {tuple(wanted)}; give values in [0, 1], 0 is noise and 1 a clean picture.")
        self.wanted, self.seen = wanted, set[float]()

    def __call__(self, h: Tensor, step: Step) -> None:
        # The halves of guidance may come in calls of their own.
        self.seen |= {round(progress, 6) for progress in step.progress[step.cond].tolist()}

    def nearest(self) -> tuple[float, ...]:
        return tuple(sorted({min(sorted(self.seen), key=lambda call: abs(call - each)) for each in self.wanted}))


def check_seeds(seeds: Sequence[int] | int) -> list[int]:
    """Return the seeds, `range(seeds)` for a number; raise HapaxError for fewer than 2 or one given twice."""
    listed = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if len(listed) < 2 or len(set(listed)) != len(listed):
        raise HapaxError(
            f"There are {len(listed)} seeds, {len(set(listed))} of them different; give 2 or more, each once."
        )
    return listed

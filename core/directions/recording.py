"""Record what a site does under captions: mean activations over places, at paired seeds and chosen steps.

The papers that link captions to the bottleneck (arXiv 2410.21314, 2511.13750) could not be read in full. What
is done here is our own specification: H(p) = mean over seeds s and steps t of pool(h_t(p, s)), pool the mean
over places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import HapaxError
from ..sites import select_site
from ..taps import Recorder, Step, to_tokens

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
    """

    site: str = "mid"
    steps: int = 4
    guidance: float | None = None
    progress: tuple[float, ...] | None = None
    batch_size: int = 8
    size: dict[str, Any] = field(default_factory=dict)

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
        recorder = PooledRecorder(self.progress)
        prompts = [caption for caption in captions for _ in seeds]
        self.run(backend, prompts, list(seeds) * len(captions), recorder, report)
        pooled = torch.stack([recorder.take(row) for row in range(len(prompts))])
        return pooled.unflatten(0, (len(captions), len(seeds)))

    def run(self, backend: Any, prompts: list[str], seeds: list[int], tap: Any, report: Any = None) -> None:
        """Sample with a tap at the site, and no pictures at the end."""
        site = select_site(backend.sites, self.site)
        options = {"steps": self.steps, "guidance": self.guidance, "batch_size": self.batch_size, **self.size}
        backend.sample(prompts, seeds, {site: tap}, output="latent", progress=report, **options)


class PooledRecorder:
    """A recorder that keeps means over places only: [S, C] a sample instead of [S, T, C].

    Args:
        progress: as `progress_targets` of `Recorder`, whose rules on calls hold here too.
    """

    def __init__(self, progress: Sequence[float]) -> None:
        self._recorder = Recorder(progress)

    def __call__(self, h: Tensor, step: Step) -> None:
        """Keep the mean of `h` over places; see `Tap`."""
        self._recorder(to_tokens(h).float().mean(1, keepdim=True), step)

    def take(self, sample: int) -> Tensor:
        """Hand out a sample's means [S, C] and forget them."""
        tokens, _ = self._recorder.take(sample)
        return tokens[:, 0]


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

"""Sample pictures from a model and record what a site does meanwhile: the first half of an audit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .activations import ActivationStore, regular_positions
from .backends.diffusers import DiffusersBackend
from .embed import ClipEmbedder
from .sites import select_site
from .taps import Recorder, Step

Progress = Callable[[str, int, int], None]
THUMBNAIL = 256
# A process that is killed loses what it recorded since it last saved: at most this long, and a batch.
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Sampling:
    """How pictures are made: the sampler's steps, guidance, batch size and the pipeline's size options."""

    steps: int
    guidance: float
    batch_size: int = 8
    size: dict[str, Any] = field(default_factory=dict)

    def pictures(
        self, backend: DiffusersBackend, prompts: str | Sequence[str], seeds: Sequence[int], taps: Any = None
    ) -> list[Image.Image]:
        """One picture per seed."""
        return backend.sample(
            prompts,
            seeds,
            taps,
            steps=self.steps,
            guidance=self.guidance,
            batch_size=self.batch_size,
            **self.size,
        )


@dataclass(frozen=True)
class Recording:
    """What is recorded of each picture: site, progress of S steps, P positions of an (H, W) grid, C channels."""

    site: str
    progress: tuple[float, ...]
    positions: Tensor
    grid: tuple[int, int]
    channels: int

    def labels(self) -> dict[str, Tensor]:
        """Step and position of each of the S * P tokens, steps outermost."""
        steps, cells = torch.tensor(self.progress), self.positions
        return {"step": steps.repeat_interleave(len(cells)), "position": cells.repeat(len(steps))}


class _Probe:
    """A tap that notes the progress of every call under the prompt, and the grid."""

    def __init__(self) -> None:
        self.progress: list[float] = []
        self.grid = (0, 0)

    def __call__(self, h: Tensor, step: Step) -> None:
        self.progress.append(round(float(step.progress[step.cond][0]), 6))
        self.grid = step.grid


def plan_recording(backend: DiffusersBackend, sampling: Sampling, site: str, steps: int, positions: int) -> Recording:
    """Choose the calls and positions to record, the same for every picture, from one probing run.

    The steps are spread evenly over the calls that the sampler makes: the middle of each of `steps` stretches.
    """
    chosen, probe = select_site(backend.sites, site), _Probe()
    sampling.pictures(backend, "", [0], {chosen: probe})
    calls = sorted(set(probe.progress))
    count = min(steps, len(calls))
    progress = tuple(calls[int((i + 0.5) * len(calls) / count)] for i in range(count))
    return Recording(site, progress, regular_positions(*probe.grid, positions), probe.grid, chosen.channels)


def batches(items: Sequence, size: int) -> Iterator[Sequence]:
    """Cut a sequence into pieces of `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


def collect(
    backend: DiffusersBackend,
    store: ActivationStore,
    embedder: ClipEmbedder,
    work: Sequence[tuple[int, str, int]],
    sampling: Sampling,
    recording: Recording,
    report: Progress,
) -> None:
    """Make and record the pictures (prompt index, prompt, seed) of `work` that the store doesn't hold yet.

    Batches are cut from `work` as it is. One of which a part is missing is made whole and the part recorded, so that
    a run that was broken off and resumed gives the very bits of an unbroken one: kernels round by batch size.
    """
    done, saved = sum((index, seed) in store for index, _, seed in work), time.monotonic()
    report("sampling", done, len(work))
    for batch in batches(work, sampling.batch_size):
        missing = [row for row, (index, _, seed) in enumerate(batch) if (index, seed) not in store]
        if not missing:
            continue
        recorder = Recorder(recording.progress, recording.positions)
        _, prompts, seeds = zip(*batch, strict=True)
        pictures = sampling.pictures(backend, prompts, seeds, {recording.site: recorder})
        embeddings = embedder.images(pictures)
        for row in missing:
            (index, prompt, seed), (tokens, _) = batch[row], recorder.take(row)
            sample = {
                "prompt": index,
                "seed": seed,
                "caption": prompt,
                "thumbnail": thumbnail(pictures[row]),
                "embedding": embeddings[row],
            }
            store.append(sample, tokens.flatten(0, 1), recording.labels())
        if time.monotonic() - saved > SAVE_SECONDS:
            store.flush()
            saved = time.monotonic()
        done += len(missing)
        report("sampling", done, len(work))


def thumbnail(picture: Image.Image) -> Tensor:
    """A picture of at most 256 pixels a side: uint8 [H, W, 3]."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(small.height, small.width, 3)

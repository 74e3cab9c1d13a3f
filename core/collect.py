"""Sample pictures from a model and record what a site does meanwhile: the first half of an audit."""

from __future__ import annotations

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
    """Make and record the pictures (prompt index, prompt, seed) of `work` that the store doesn't hold yet."""
    missing = [item for item in work if (item[0], item[2]) not in store]
    done = len(work) - len(missing)
    report("sampling", done, len(work))
    for batch in batches(missing, sampling.batch_size):
        recorder = Recorder(recording.progress, recording.positions)
        _, prompts, seeds = zip(*batch, strict=True)
        pictures = sampling.pictures(backend, prompts, seeds, {recording.site: recorder})
        embeddings = embedder.images(pictures)
        for row, (index, prompt, seed) in enumerate(batch):
            tokens, _ = recorder.take(row)
            sample = {
                "prompt": index,
                "seed": seed,
                "caption": prompt,
                "thumbnail": thumbnail(pictures[row]),
                "embedding": embeddings[row],
            }
            store.append(sample, tokens.flatten(0, 1), recording.labels())
        done += len(batch)
        report("sampling", done, len(work))


def thumbnail(picture: Image.Image) -> Tensor:
    """A picture of at most 256 pixels a side: uint8 [H, W, 3]."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(small.height, small.width, 3)

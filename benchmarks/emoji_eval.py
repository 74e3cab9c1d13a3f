"""What the benchmarks on the emoji world share: cached collections, the judge's verdicts, targets, what "finds" means.

    python benchmarks/emoji_eval.py --cache DIR [--model DIR] [--concepts firefighter cook] [--images 1000]

makes and keeps the collection of each concept: pictures at seeds 0, 1, ..., every step of the denoiser's mid block,
CLIP embeddings, and what the judge sees. About .05 s a picture on one core. Only these benchmarks see the judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from hapax.core.activations import ActivationStore
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.collect import Recording, Sampling, collect, plan_recording
from hapax.core.durable import write_file
from hapax.core.embed import ClipEmbedder
from hapax.core.emoji import DEMO, MODEL_FOLDER, load_clip
from hapax.core.emoji.judge import judge
from hapax.core.emoji.world import Kind, load_world
from torch import Tensor

# Methods are chosen on the first half and reported, once, on the second.
CHOOSE = ("firefighter", "doctor", "teacher", "farmer", "cook", "apple", "bear", "bird", "book", "car")
REPORT = ("mechanic", "pilot", "judge", "singer", "scientist", "cat", "castle", "fish", "heart", "rose")
BATCH = 100
TARGET_COUNT, TARGET_SHARE = 16, 0.10
SHOWN, AGREE, PRESENCE = 10, 8, 0.15


@dataclass(frozen=True, eq=False)
class Truth:
    """What the judge sees in n pictures: attribute values, and which picture has which [n, V]."""

    concept: str
    kinds: list[Kind]
    rmse: Tensor

    @cached_property
    def values(self) -> list[str]:
        """The attribute values that the world gives this concept."""
        return [value for table in load_world().truth[self.concept].values() for value in table]

    @cached_property
    def has(self) -> Tensor:
        """[n, V] bool."""
        return torch.tensor([[kind.has(value) for value in self.values] for kind in self.kinds])

    @cached_property
    def right(self) -> Tensor:
        """[n] bool: pictures of the concept that was asked for."""
        return torch.tensor([kind.concept == self.concept for kind in self.kinds])

    @cached_property
    def rates(self) -> dict[str, float]:
        """Each value's share of the pictures."""
        return dict(zip(self.values, self.has.float().mean(0).tolist(), strict=True))

    @property
    def targets(self) -> list[str]:
        """What an audit of these pictures should find: seen in at least 16 of 1,000 and in at most a tenth."""
        least = TARGET_COUNT / 1000
        return [value for value, rate in self.rates.items() if least <= rate <= TARGET_SHARE]

    def part(self, rows: Sequence[int]) -> Truth:
        """The truth about some of the pictures."""
        return Truth(self.concept, [self.kinds[i] for i in rows], self.rmse[list(rows)])

    def found(self, exemplars: Sequence[int]) -> str | None:
        """What a feature with these exemplars finds: the rarest value that at least 8 of 10 of them have.

        None if there is no such value, or if it is no rarer than 15 %.
        """
        rows = list(exemplars)[:SHOWN]
        if len(rows) < AGREE:
            return None
        agree = self.has[rows].float().mean(0) >= AGREE / SHOWN
        seen = [self.values[int(i)] for i in agree.nonzero().flatten()]
        return min((v for v in seen if self.rates[v] <= PRESENCE), key=lambda v: self.rates[v], default=None)


@dataclass(frozen=True, eq=False)
class Collection:
    """The pictures of one bare prompt: store, indices of the pictures in it, and the truth about them."""

    concept: str
    prompt: str
    store: ActivationStore
    samples: list[int]
    truth: Truth

    def first(self, images: int, start: int = 0) -> Collection:
        """Only some pictures: `images` of them from seed `start` on."""
        rows = list(range(start, start + images))
        return Collection(self.concept, self.prompt, self.store, [self.samples[i] for i in rows], self.truth.part(rows))


class Lab:
    """Model, CLIP and cache of the emoji world."""

    def __init__(self, cache: Path, model: Path = MODEL_FOLDER) -> None:
        self.backend = DiffusersBackend.from_folder(model)
        self.fingerprint = self.backend.fingerprint()
        self.cache = cache / self.fingerprint[:12]
        self.sampling = Sampling(**DEMO, batch_size=BATCH)

    @cached_property
    def clip(self) -> ClipEmbedder:
        """The tiny CLIP."""
        return load_clip()

    @cached_property
    def recording(self) -> Recording:
        """Every call of the mid block, every position."""
        return plan_recording(self.backend, self.sampling, "mid", 10**6, 10**6)

    def collection(self, concept: str, images: int = 1000) -> Collection:
        """Pictures at seeds 0 .. images - 1, made now where the cache lacks them."""
        folder, prompt = self.cache / concept, load_world().prompt(concept)
        provenance = {"model": self.fingerprint, "clip": self.clip.fingerprint, "site": "mid"}
        with ActivationStore.open_or_create(folder / "store", provenance) as store:
            work = [(0, prompt, seed) for seed in range(images)]
            if any((0, seed) not in store for _, _, seed in work):
                collect(self.backend, store, self.clip, work, self.sampling, self.recording, _quiet)
        store = ActivationStore.open(folder / "store")
        return Collection(concept, prompt, store, list(range(images)), self._truth(folder, concept, store, images))

    def _truth(self, folder: Path, concept: str, store: ActivationStore, images: int) -> Truth:
        path = folder / "verdicts.json"
        held = json.loads(path.read_text()) if path.exists() else []
        if len(held) < images:
            verdict = judge(store.thumbnails(range(len(held), len(store))))
            held += [
                [kind.concept, list(kind.attributes), rmse]
                for kind, rmse in zip(verdict.kinds, verdict.rmse.tolist(), strict=True)
            ]
            write_file(path, json.dumps(held).encode())
        kinds = [Kind(name, tuple((a, v) for a, v in attributes)) for name, attributes, _ in held[:images]]
        return Truth(concept, kinds, torch.tensor([rmse for _, _, rmse in held[:images]]))

    def seen(self, concept: str, prompts: str | Sequence[str], seeds: Sequence[int], taps: object = None) -> Truth:
        """What the judge sees in fresh pictures."""
        pictures = self.backend.sample(prompts, seeds, taps, output="pt", batch_size=BATCH, **DEMO)  # type: ignore[arg-type]
        verdict = judge((pictures.permute(0, 2, 3, 1) * 255).round().byte())
        return Truth(concept, verdict.kinds, verdict.rmse)


def lab_options(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks on the emoji world share."""
    parser.add_argument(
        "--cache", type=Path, default=Path("out/eval"), help="folder that keeps collections between runs"
    )
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="diffusers folder; the shipped one by default")
    parser.add_argument("--concepts", nargs="+", default=list(CHOOSE), help="concepts, or `choose` or `report`")
    parser.add_argument("--images", type=int, default=1000, help="bare pictures per concept")


def concepts_of(names: Sequence[str]) -> list[str]:
    """Concept names, with the two halves written out."""
    halves = {"choose": CHOOSE, "report": REPORT}
    return [concept for name in names for concept in halves.get(name, (name,))]


def _quiet(stage: str, done: int, total: int) -> None:
    return None


def main() -> None:
    """Fill the cache and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lab_options(parser)
    options = parser.parse_args()
    lab = Lab(options.cache, options.model)
    for concept in concepts_of(options.concepts):
        truth = lab.collection(concept, options.images).truth
        rates = ", ".join(f"{value} {rate:.3f}" for value, rate in truth.rates.items())
        print(f"{concept}: right {truth.right.float().mean():.3f}, rmse {truth.rmse.mean():.4f}; {rates}", flush=True)


if __name__ == "__main__":
    main()

"""Turn a feature up at fresh seeds and measure what became of it, by CLIP alone.

The steering is an extension of RAIGen, whose own amplification is prompt mixing (App. F.2); both are done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from .backends.diffusers import DiffusersBackend
from .collect import Sampling
from .embed import ClipEmbedder
from .exemplars import exemplars
from .sae import MatryoshkaSAE
from .statistics import wilson_interval
from .steering import Scope, SteerFeatures

# Early steps compose the picture; a push that goes on to the end overshoots (measured on the emoji model).
WINDOWS = ((0.0, 0.5), (0.0, 0.75))
STRENGTHS = (4.0, 8.0, 16.0, 32.0)
ENOUGH = 0.6
FAITHFUL = 0.9


@dataclass(frozen=True, eq=False)
class Gauge:
    """Counts a feature's look in pictures by CLIP: on which side of the half-way point they lie between the
    feature's exemplars and the prompt's other pictures."""

    direction: Tensor
    threshold: float

    @classmethod
    def of(cls, pooled: Tensor, embeddings: Tensor) -> Gauge:
        """From one latent's image-level activations [N] and the pictures' unit embeddings [N, E]."""
        top, silent = exemplars(pooled), pooled <= 0
        rest = embeddings[silent] if bool(silent.any()) else embeddings
        direction = torch.nn.functional.normalize(embeddings[top].mean(0) - rest.mean(0), dim=0)
        near, far = (embeddings[top] @ direction).mean(), (rest @ direction).mean()
        return cls(direction, float((near + far) / 2))

    def rate(self, embeddings: Tensor) -> dict[str, float | int]:
        """How many of the pictures [n, E] lie on the exemplars' side, with a 95 % Wilson interval."""
        count, n = int((embeddings @ self.direction > self.threshold).sum()), len(embeddings)
        low, high = wilson_interval(count, n)
        return {"count": count, "n": n, "rate": count / n, "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Push:
    """A way to turn a feature up: strength in units of its profile, and a window of progress."""

    strength: float
    window: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Amplifier:
    """One feature of one prompt, ready to be turned up at any seeds."""

    backend: DiffusersBackend
    embedder: ClipEmbedder
    sampling: Sampling
    site: str
    prompt: str
    sae: MatryoshkaSAE
    latents: Tensor
    reference: Tensor
    gauge: Gauge

    def pictures(self, seeds: Sequence[int], push: Push | None) -> list[Image.Image]:
        """Pictures at these seeds, with the push or without."""
        taps = {}
        if push is not None:
            scope = Scope(*push.window)
            edit = SteerFeatures(self.sae, self.latents, reference=self.reference, strength=push.strength, scope=scope)
            taps = {self.site: edit}
        return self.sampling.pictures(self.backend, self.prompt, seeds, taps)

    def choose(self, seeds: Sequence[int]) -> Push:
        """The gentlest push that gives the feature to most pictures and keeps them true to the prompt.

        Truth to the prompt is CLIP's cosine with it, at least nine tenths of what the unpushed pictures have.
        """
        text = self.embedder.texts([self.prompt])[0]
        base = float((self.embedder.images(self.pictures(seeds, None)) @ text).mean())
        best, best_value = Push(STRENGTHS[0], WINDOWS[0]), -1.0
        for window in WINDOWS:
            for strength in STRENGTHS:
                push = Push(strength, window)
                embeddings = self.embedder.images(self.pictures(seeds, push))
                rate = self.gauge.rate(embeddings)["rate"]
                faithful = float((embeddings @ text).mean()) >= FAITHFUL * base
                if faithful and rate >= ENOUGH:
                    return push
                value = rate * faithful
                if value > best_value:
                    best, best_value = push, value
        return best


@dataclass(frozen=True, eq=False)
class Amplified:
    """Pictures of one feature before and after, at equal seeds, and from prompt mixing."""

    push: Push
    seeds: list[int]
    before: list[Image.Image]
    after: list[Image.Image]
    rate_before: dict[str, float | int]
    rate_after: dict[str, float | int]
    mixed_prompt: str | None
    mixed: list[Image.Image]
    rate_mixed: dict[str, float | int] | None


def amplify(amplifier: Amplifier, search: Sequence[int], seeds: Sequence[int], label: str | None) -> Amplified:
    """Choose a push on the seeds `search`, then show it on `seeds`; mix prompts too if the feature has a name."""
    push, embedder, gauge = amplifier.choose(search), amplifier.embedder, amplifier.gauge
    before, after = amplifier.pictures(seeds, None), amplifier.pictures(seeds, push)
    prompt = f"{amplifier.prompt}, {label}" if label else None
    mixed: list[Image.Image] = []
    if prompt:
        # Half of the pictures from the prompt that names the attribute, half from the bare one (App. F.2).
        prompts = [prompt if i % 2 == 0 else amplifier.prompt for i in range(len(seeds))]
        mixed = amplifier.sampling.pictures(amplifier.backend, prompts, seeds)
    return Amplified(
        push,
        list(seeds),
        before,
        after,
        gauge.rate(embedder.images(before)),
        gauge.rate(embedder.images(after)),
        prompt,
        mixed,
        gauge.rate(embedder.images(mixed)) if mixed else None,
    )

"""Turn a feature up at fresh seeds and measure what became of it, by CLIP alone.

The steering is an extension of RAIGen, whose own amplification is prompt mixing (App. F.2); both are done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from .backends.diffusers import DiffusersBackend
from .collect import Sampling
from .embed import ClipEmbedder
from .look import Look
from .pattern import AddPattern, Approach, Pattern
from .sae import MatryoshkaSAE
from .steering import Scope
from .taps import Tap

# The last steps only draw what is decided; the push ends before them where that is enough.
WINDOWS = ((0.0, 0.75), (0.0, 1.0))
STRENGTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# Of the pictures that show a feature by themselves, .75 show it plainly; pushed ones often have it by half.
ENOUGH = 0.65
# Pictures less true to the prompt than this share of the natural ones are strays. Rare looks are so by themselves at
# times; of the pushed pictures so many more may be than of the natural ones with the look.
STRAY, STRAYS = 0.01, 0.05


@dataclass(frozen=True)
class Push:
    """A way to turn a feature up: a strength, a window of progress, and which of the two taps of `pattern`."""

    strength: float
    window: tuple[float, float]
    mode: Literal["add", "approach"] = "add"


@dataclass(frozen=True, eq=False)
class Amplifier:
    """One feature of one prompt, ready to be turned up at any seeds.

    Attributes:
        look: tells which pictures show the feature.
        natural: [N, E] embeddings of the prompt's pictures as they are.
        strengths, modes: that `choose` tries, the gentlest first.
    """

    backend: DiffusersBackend
    embedder: ClipEmbedder
    sampling: Sampling
    site: str
    prompt: str
    sae: MatryoshkaSAE
    pattern: Pattern
    look: Look
    natural: Tensor
    strengths: tuple[float, ...] = STRENGTHS
    modes: tuple[Literal["add", "approach"], ...] = ("approach", "add")

    def pictures(self, seeds: Sequence[int], push: Push | None) -> list[Image.Image]:
        """Pictures at these seeds, with the push or without."""
        taps = {self.site: self.edit(push)} if push else None
        return self.sampling.pictures(self.backend, self.prompt, seeds, taps)

    def edit(self, push: Push) -> Tap:
        """The tap that turns the feature up."""
        tap = AddPattern if push.mode == "add" else Approach
        return tap(self.sae, self.pattern, strength=push.strength, scope=Scope(*push.window))

    def choose(self, seeds: Sequence[int]) -> Push:
        """The gentlest push that gives the feature plainly to most pictures and keeps them true to the prompt.

        Truth to the prompt is CLIP's cosine with it; hardly more pictures may have less of it than all but a
        hundredth of the natural ones than do of the natural ones with the feature. Where no push does both, the one
        that gives the feature to most pictures without loss, or else with the least.
        """
        text = self.embedder.texts([self.prompt])[0]
        truth, shown = (self.natural @ text).float(), self.look.scores(self.natural) > self.look.threshold
        least = torch.quantile(truth, STRAY)
        most = STRAYS + (float((truth[shown] < least).float().mean()) if bool(shown.any()) else 0.0)
        best, best_value = Push(self.strengths[0], WINDOWS[0]), (-2.0, -1.0)
        for strength, window, mode in product(self.strengths, WINDOWS, self.modes):
            push = Push(strength, window, mode)
            embeddings = self.embedder.images(self.pictures(seeds, push))
            rate = float((self.look.scores(embeddings) > self.look.plain).float().mean())
            strays = float((embeddings @ text < least).float().mean())
            if strays <= most and rate >= ENOUGH:
                return push
            value = (min(0.0, most - strays), rate)
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
    push, embedder, look = amplifier.choose(search), amplifier.embedder, amplifier.look
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
        look.rate(embedder.images(before)),
        look.rate(embedder.images(after)),
        prompt,
        mixed,
        look.rate(embedder.images(mixed)) if mixed else None,
    )

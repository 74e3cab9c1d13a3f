"""What turning a found feature up does, by the judge: its share, the concept, the quality; against other ways.

    python benchmarks/amplification.py --cache DIR [--model DIR] [--concepts choose|report|NAME ...] [--seeds 200]
        [--arms pattern ...] [--suppress] [--json FILE] [--trust]

Every feature that `findings.py` finds is turned up at fresh seeds. An arm holds for a feature when the attribute
comes to half of the pictures and to 5 times its base, at least 95 % keep the concept, and the mean distance to the
nearest emoji (RMSE) is within 1.5 times that of 100 pictures from prompts that name the attribute. Strength and
window are chosen by CLIP alone on 24 seeds of their own. About 25 CPU seconds a feature for `pattern` at 200 seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from emoji_eval import Lab, Truth, concepts_of, lab_options
from finding_arms import Case
from findings import TRUST, case_of
from hapax.core.amplify import Amplifier, Push
from hapax.core.durable import write_file
from hapax.core.emoji import phrases
from hapax.core.emoji.world import load_world
from hapax.core.feature_stats import FeatureStats
from hapax.core.findings import Found
from hapax.core.grouping import group_latents, group_strength
from hapax.core.labels import FeatureCentroid, PhraseLabeller
from hapax.core.look import LookFitter
from hapax.core.pattern import AddPattern, Pattern
from hapax.core.steering import AddDirection, Scope, SteerFeatures
from hapax.core.taps import Tap
from torch import Tensor

SHARE, TIMES, CONCEPT, QUALITY = 0.5, 5.0, 0.95, 1.5
SEARCH, SEARCH_SEED, SEED, NAMED_SEED, NAMED = 24, 500_000, 600_000, 700_000, 100
PUSHES = (2.0, 4.0, 8.0, 16.0)
MAJORITY = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one feature in one arm."""

    concept: str
    value: str
    arm: str
    push: list[str | float] | None
    base: float
    share: float
    kept: float
    quality: float

    @property
    def holds(self) -> bool:
        """Whether all four bars are met."""
        enough = self.share >= SHARE and self.share >= TIMES * self.base
        return enough and self.kept >= CONCEPT and self.quality <= QUALITY


class ByStep(Amplifier):
    """A push of its own for each step, the same at all places."""

    def edit(self, push: Push) -> Tap:
        """Add the pattern's mean over places."""
        shown, others = (x.mean((1, 2), keepdim=True) for x in (self.pattern.shown, self.pattern.others))
        pattern = replace(self.pattern, shown=shown, others=others)
        return AddPattern(self.sae, pattern, strength=push.strength, scope=Scope(*push.window))


class Constant(Amplifier):
    """One push for all steps and places: the pattern's mean."""

    def edit(self, push: Push) -> Tap:
        """Add the mean to all tokens."""
        change = (self.pattern.shown - self.pattern.others).mean((0, 1, 2))
        scope = Scope(*push.window)
        return SteerFeatures(self.sae, self.pattern.latents, reference=change, strength=push.strength, scope=scope)


@dataclass(frozen=True, eq=False)
class OneLatent(Amplifier):
    """The decoder row of the feature's latent on all tokens, in units of a strong activation."""

    row: Tensor = field(default_factory=lambda: torch.empty(0))
    level: float = 1.0

    def edit(self, push: Push) -> Tap:
        """Add the row."""
        return AddDirection(self.row, scale=self.level, strength=push.strength, scope=Scope(*push.window))


@dataclass(frozen=True, eq=False)
class Labelled(Amplifier):
    """The difference of the tokens' means by the judge's labels: what one could do knowing the attribute."""

    difference: Tensor = field(default_factory=lambda: torch.empty(0))

    def edit(self, push: Push) -> Tap:
        """Add the difference to all tokens."""
        scale = float(self.difference.norm())
        scope = Scope(*push.window)
        return AddDirection(self.difference / scale, scale=scale, strength=push.strength, scope=scope)


KINDS: dict[str, type[Amplifier]] = {
    "pattern": Amplifier,
    "by step": ByStep,
    "constant": Constant,
    "one latent": OneLatent,
    "labelled means": Labelled,
}
MODES: dict[str, tuple[Literal["add", "approach"], ...]] = {"added": ("add",), "clamped": ("approach",)}
ARMS = (*KINDS, *MODES, "prompt mixing")


class Bench:
    """One concept's found features and the ways to turn them up."""

    def __init__(self, lab: Lab, concept: str, images: int) -> None:
        self.lab, self.concept = lab, concept
        self.case: Case = case_of(lab, lab.collection(concept, images))
        self.truth, self.prompt = self.case.collection.truth, self.case.collection.prompt
        self.found: Found = self.case.found()
        self.grid = lab.recording.grid
        self.progress = [lab.recording.progress[i] for i in self.case.pictures.steps]

    def attributes(self) -> list[tuple[int, str]]:
        """(number, attribute) of the features that find something."""
        hits = [self.truth.found(self.found.exemplars(i).tolist()) for i in range(len(self.found.groups))]
        return [(i, hit) for i, hit in enumerate(hits) if hit]

    def amplifier(self, number: int, kind: type[Amplifier], value: str) -> Amplifier:
        """One arm's amplifier for one feature."""
        seen, sae, tokens = self.found.looks[number], self.found.trained.sae, self.case.tokens
        pattern = Pattern.of(sae, tokens, seen.shown, self.progress, self.grid)
        plain = kind in (Constant, OneLatent, Labelled)
        more: dict[str, Any] = {"strengths": PUSHES} if plain else {}
        if kind is not Amplifier:
            more["modes"] = ("add",)
        if kind is Labelled:
            has = self.truth.has[:, self.truth.values.index(value)]
            more["difference"] = (tokens[has].float().mean(0) - tokens[~has].float().mean(0)).mean((0, 1))
        if kind is OneLatent:
            latent = torch.tensor(self.found.groups[number][:1])
            z = sae.encode_rows(tokens[seen.shown].flatten(0, 2).float(), latent)
            more |= {"row": sae.W_dec[latent[0]], "level": float(torch.quantile(z[z > 0], 0.95))}
        lab = self.lab
        base = (lab.backend, lab.clip, lab.sampling, "mid", self.prompt, sae, pattern, seen.look)
        return kind(*base, natural=self.case.embeddings, **more)

    def named(self, value: str) -> Truth:
        """Pictures from prompts that name the attribute."""
        world, rng = load_world(), np.random.default_rng(0)
        attribute = next(a for a, table in world.truth[self.concept].items() if value in table)
        kinds = [kind for kind in world.kinds(self.concept) if kind[attribute] == value]
        chosen = [kinds[rng.integers(len(kinds))] for _ in range(NAMED)]
        prompts = [world.caption(kind, {attribute}) for kind in chosen]
        return self.lab.seen(self.concept, prompts, range(NAMED_SEED, NAMED_SEED + NAMED))

    def mixed(self, number: int, seeds: Sequence[int]) -> Truth | None:
        """Half of the pictures from the prompt with the feature's name; None if it has none."""
        texts = self.lab.clip.texts([f"{self.prompt}, {phrase}" for phrase in phrases()])
        labeller = PhraseLabeller(phrases(), texts, self.case.embeddings)
        stats = FeatureStats.of(self.found.activations(number)[:, None], self.case.embeddings)
        names = labeller.label(FeatureCentroid.of(stats, 0))
        if not names:
            return None
        prompts = [f"{self.prompt}, {names[0][0]}" if i % 2 == 0 else self.prompt for i in range(len(seeds))]
        return self.lab.seen(self.concept, prompts, seeds)

    def run(self, number: int, value: str, arm: str, count: int, reference: float) -> Outcome | None:
        """Turn one feature up in one way."""
        seeds, push = range(SEED, SEED + count), None
        if arm == "prompt mixing":
            seen = self.mixed(number, seeds)
        else:
            amplifier = self.amplifier(number, KINDS.get(arm, Amplifier), value)
            amplifier = replace(amplifier, modes=MODES.get(arm, amplifier.modes))
            push = amplifier.choose(range(SEARCH_SEED, SEARCH_SEED + SEARCH))
            seen = self.lab.seen(self.concept, self.prompt, seeds, {"mid": amplifier.edit(push)})
        if seen is None:
            return None
        kept, quality = float(seen.right.float().mean()), float(seen.rmse.mean()) / reference
        chosen = [push.mode, push.strength, *push.window] if push else None
        return Outcome(
            self.concept, value, arm, chosen, self.truth.rates[value], seen.rates[value], kept, quality
        )  # fmt: skip

    def suppress(self, count: int) -> list[dict[str, Any]]:
        """Turn down what most pictures show: the shares of all values of that attribute, before and after."""
        case, fitter, rows = self.case, LookFitter(self.case.embeddings), []
        groups = group_latents(case.pooled, case.embeddings, case.table.findings())
        before = self.lab.seen(self.concept, self.prompt, range(SEED, SEED + count))
        for table in load_world().truth[self.concept].values():
            value = max(table, key=lambda v: self.truth.rates[v])
            if self.truth.rates[value] < MAJORITY:
                continue
            other = self._opposite(groups, fitter, value)
            if other is None:
                continue
            pattern = Pattern.of(self.found.trained.sae, case.tokens, other, self.progress, self.grid)
            for strength in (0.5, 1.0, 2.0):
                edit = AddPattern(self.found.trained.sae, pattern, strength=strength, scope=Scope(0.0, 0.75))
                after = self.lab.seen(self.concept, self.prompt, range(SEED, SEED + count), {"mid": edit})
                shares = {v: (round(before.rates[v], 3), round(after.rates[v], 3)) for v in table}
                kept = float(after.right.float().mean())
                rows.append({"concept": self.concept, "value": value, "strength": strength, "kept": kept} | shares)
        return rows

    def _opposite(self, groups: list[list[int]], fitter: LookFitter, value: str) -> Tensor | None:
        """The pictures without the look of the group that shows the majority value best."""
        has, best = self.truth.has[:, self.truth.values.index(value)], (0.8, None)
        for group in groups:
            seen = fitter.fit(group_strength(self.case.pooled, group))
            if seen is not None:
                agree = float((seen.shown == has).float().mean())
                best = max(best, (agree, ~seen.shown), key=lambda pair: pair[0])
        return best[1]


def table(outcomes: list[Outcome]) -> str:
    """One line an arm: how many features hold, and means."""
    lines = [f"{'arm':16s}{'holds':>14s}{'share':>8s}{'concept':>9s}{'rmse':>7s}"]
    for arm in dict.fromkeys(each.arm for each in outcomes):
        rows = [each for each in outcomes if each.arm == arm]
        share, kept, quality = (np.mean([getattr(r, name) for r in rows]) for name in ("share", "kept", "quality"))
        held = sum(row.holds for row in rows)
        lines.append(f"{arm:16s}{held:6d} of {len(rows):3d} {share:8.2f}{kept:9.3f}{quality:7.2f}")
    return "\n".join(lines)


def main() -> None:
    """Turn everything up and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lab_options(parser)
    parser.add_argument("--seeds", type=int, default=200, help="fresh pictures per feature and arm")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS), help="none: only --suppress")
    parser.add_argument("--suppress", action="store_true", help="also turn majority features down")
    parser.add_argument("--json", type=Path, help="write all outcomes here")
    parser.add_argument("--trust", action="store_true", help="write the share of features that hold for reports")
    options = parser.parse_args()
    lab, outcomes, suppressed = Lab(options.cache, options.model), [], []
    for concept in concepts_of(options.concepts):
        bench = Bench(lab, concept, options.images)
        for number, value in bench.attributes():
            reference = float(bench.named(value).rmse.mean())
            for arm in options.arms:
                outcome = bench.run(number, value, arm, options.seeds, reference)
                if outcome:
                    outcomes.append(outcome)
                    print(json.dumps(asdict(outcome) | {"holds": outcome.holds}), flush=True)
        if options.suppress:
            rows = bench.suppress(options.seeds)
            print("\n".join(map(json.dumps, rows)), flush=True)
            suppressed += rows
    print(table(outcomes))
    if options.json:
        whole = {"outcomes": [asdict(each) for each in outcomes], "suppressed": suppressed}
        write_file(options.json, json.dumps(whole, indent=1).encode())
    own = [each.holds for each in outcomes if each.arm == "pattern"]
    if options.trust and own:
        figures = json.loads(TRUST.read_text()) if TRUST.is_file() else {}
        figures["amplified"] = sum(own) / len(own)
        write_file(TRUST, (json.dumps(figures, indent=1, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main()

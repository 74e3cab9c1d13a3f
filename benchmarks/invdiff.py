"""How evenly guided pictures fall, and what that costs, against rivals, by the judge of the emoji world.

    python benchmarks/invdiff.py --cache DIR [--model DIR] [--concepts choose] [--arms base ours oracle ...]
        [--images 1000] [--test 1000] [--steps 1500] [--rounds 2] [--strength 1.15] [--official-steps 6000]
        [--module FILE]

One module is trained for all concepts; pictures to judge come from seeds that were never trained on. Arms: base; ours
(`hapax invdiff train --by clip`); losses (`--by losses`); and, all in one round on the pictures of `emoji_eval.py`'s
cache: sae (groups by an SAE's features of the mid block); oracle (groups by the judge); lora (low-rank adapters on our
groups); official (the official code's delta, loss and grouping). Of prompts: asked (one that lists both genders,
light and dark skin); fair (one a picture, each naming a gender and a skin tone drawn evenly: only chance is left).
Options must be chosen on `--concepts choose`. Prints a JSON line per arm and concept, then what fell, by arm.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from emoji_eval import BATCH, Lab, Truth, concepts_of, lab_options
from hapax.core.backends.autoencoder import encode
from hapax.core.backends.denoiser import Conditioned
from hapax.core.emoji import DEMO
from hapax.core.emoji.judge import judge
from hapax.core.emoji.world import load_world
from hapax.core.findings import SAESize, train_on
from hapax.core.invdiff import (
    GuidanceConfig,
    GuidanceModule,
    PictureSet,
    infer_groups,
    load_guidance,
    save_guidance,
    spread_probabilities,
    train_guidance,
)
from hapax.core.invdiff.metrics import normalised_mutual_information, permutation_null
from hapax.core.invdiff.session import GuidanceSession, SessionSettings
from hapax.core.tensor_file import read_tensors
from invdiff_rivals import low_rank, official_groups, official_losses, train_low_rank, train_official
from invdiff_table import ATTRIBUTES, measured, summary
from PIL import Image
from torch import Tensor

ARMS = ("base", "ours", "losses", "oracle", "lora", "official", "asked", "fair")
# All five skin tones are more than the text encoder reads.
ASKED = ("woman", "man", "light skin", "dark skin")
FIRST_TEST_SEED = 500_000


class Bench:
    """Collections, groups and trained arms for some concepts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.world = options, load_world()
        self.lab = Lab(options.cache, options.model)
        self.backend = self.lab.backend
        self.concepts = [c for c in concepts_of(options.concepts) if c in self.world.professions]
        self.collections = [self.lab.collection(concept, options.images) for concept in self.concepts]
        self.truths = [collection.truth for collection in self.collections]
        self.pictures = self._pictures()
        self.config = GuidanceConfig(
            steps=options.steps,
            batch_size=options.batch,
            lr=options.lr,
            end=options.end,
            bf16=options.bf16,
            seed=options.seed,
        )

    def _pictures(self) -> PictureSet:
        parts = []
        for collection in self.collections:
            pixels = collection.store.thumbnails(collection.samples).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts += [encode(self.backend, part) for part in pixels.split(BATCH)]
        prompts = tuple(collection.prompt for collection in self.collections)
        number = torch.arange(len(prompts)).repeat_interleave(self.options.images)
        ids = tuple(f"{u}:{seed}" for u in range(len(prompts)) for seed in range(self.options.images))
        return PictureSet(torch.cat(parts), number, prompts, ids)

    def inferred(self, by: str) -> tuple[Tensor, Tensor]:
        """Groups without labels: weights [N, G] and probabilities [N]."""
        read = {"clip": lambda c: c.store.embeddings(c.samples).float(), "sae": _features}[by]
        table, prompt = torch.cat([read(c) for c in self.collections]), self.pictures.prompt
        weights = infer_groups(table, self.options.groups, seed=self.options.seed, prompt=prompt)
        return weights, spread_probabilities(table, prompt)

    def session(self, by: str) -> tuple[Tensor, GuidanceModule, dict[str, int]]:
        """What `hapax invdiff train` does: the first round's weights [N, G], the module, CPU seconds by stage."""
        options, spent = self.options, Spent()
        settings = SessionSettings(
            prompts=self.pictures.prompts,
            pictures=None,
            images=options.images,
            sampling=self.lab.sampling,
            groups=options.groups,
            by=by,
            seed=options.seed,
            rounds=options.rounds,
        )
        with TemporaryDirectory() as place:
            folder = Path(place)
            module = load_guidance(
                GuidanceSession(self.backend, settings, self.config, folder, spent, lambda: self.lab.clip).run()
            )
            weights = read_tensors(folder / "groups.safetensors", "groups")[0]["weights"]
        return weights, module, {stage: round(seconds) for stage, seconds in spent.seconds.items()}

    def true_groups(self) -> tuple[Tensor, Tensor]:
        """The judge's cells of gender and skin, and probabilities with both margins even (raking)."""
        cells, table = _cells(self.truths), []
        for gender in range(2):
            table += [(cells[:, 0] == gender) & (cells[:, 1] == skin) for skin in range(5)]
        wrong = cells[:, 0] < 0
        weights, p = torch.stack([*table, wrong], 1).float(), (~wrong).double()
        for _ in range(100):
            for attribute, count in enumerate((2, 5)):
                for u in range(len(self.concepts)):
                    for value in range(count):
                        rows = (self.pictures.prompt == u) & (cells[:, attribute] == value)
                        p[rows] /= max(float(p[rows].sum()), 1e-12) * count
        return weights, p

    @contextmanager
    def arm(self, name: str) -> Iterator[tuple[dict[str, Any], Any]]:
        """Train an arm; yield what to print about it and its taps (None: none)."""
        if name in ("base", "asked", "fair"):
            yield {}, None
        elif name == "official":
            conditioned = Conditioned(self.backend, self.pictures.prompts)
            groups = official_groups(official_losses(conditioned, self.pictures, self.options.seed))
            delta, seconds = train_official(self.backend, self.pictures, groups, steps=self.options.official_steps)
            yield self._about(groups, delta.parameters, {"training": round(seconds)}), {"eps": delta}
        elif name == "lora":
            weights, p = self.inferred("clip")
            with low_rank(self.backend.denoiser) as adapters:
                conditioned = Conditioned(self.backend, self.pictures.prompts)
                seconds = train_low_rank(conditioned, self.pictures, weights, p, self.config, adapters)
                with torch.no_grad():
                    for up in adapters[1::2]:
                        up *= self.options.strength
                yield self._about(weights, sum(a.numel() for a in adapters), {"training": round(seconds)}), None
        else:
            if name == "ours" and self.options.module:
                module = load_guidance(self.options.module).to(self.backend.denoiser.device)
                module.set_strength(self.options.strength)
                yield {"module": self.options.module.name}, {module.shape.site: module}
                return
            if name in ("ours", "losses"):
                weights, module, seconds = self.session("clip" if name == "ours" else name)
            else:
                weights, p = self.true_groups() if name == "oracle" else self.inferred(name)
                begun = time.process_time()
                module = train_guidance(self.backend, self.pictures, weights, self.config, probabilities=p)
                seconds = {"training": round(time.process_time() - begun)}
            save_guidance(module, self.lab.cache / f"guidance-{name}-{'-'.join(self.concepts)}.safetensors")
            module.set_strength(1.0 if name == "oracle" else self.options.strength)
            yield self._about(weights, module.shape.parameters, seconds), {module.shape.site: module}

    def _about(self, weights: Tensor, parameters: int, seconds: dict[str, int]) -> dict[str, Any]:
        """Size, time, and what the groups know: mutual information with the truth, and its place among shuffles."""
        cells, know = _cells(self.truths), {}
        for u, concept in enumerate(self.concepts):
            rows, row = self.pictures.prompt == u, {}
            for attribute, name in enumerate(ATTRIBUTES):
                usual = cells[rows, attribute].mode().values
                minority = (cells[rows, attribute] != usual).long()
                null = permutation_null(weights[rows], minority, draws=299)
                found = normalised_mutual_information(weights[rows], minority)
                row[name] = [round(found, 4), round(float((null < found).double().mean()), 4)]
            know[concept] = row
        return {"parameters": parameters, "cpu_seconds": seconds, "nmi_and_percentile": know}

    def judged(self, name: str, concept: str, taps: Any) -> tuple[Truth, Tensor]:
        """What the judge sees in held-out pictures, and their CLIP embeddings."""
        prompt, count = self.world.prompt(concept), self.options.test
        prompts: Any = prompt
        if name == "asked":
            prompts = ", ".join([prompt, *ASKED])
        elif name == "fair":
            rng = np.random.default_rng([self.options.seed, self.concepts.index(concept)])
            prompts = [
                self.world.caption(self.world.draw(concept, set(ATTRIBUTES), rng), set(ATTRIBUTES))
                for _ in range(count)
            ]
        seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + count)
        made = self.backend.sample(prompts, seeds, taps, output="pt", batch_size=BATCH, **DEMO)
        pixels = (made.permute(0, 2, 3, 1) * 255).round().byte()
        verdict = judge(pixels)
        embedded = self.lab.clip.images([Image.fromarray(p.numpy()) for p in pixels])
        return Truth(concept, verdict.kinds, verdict.rmse), embedded


def _features(collection: Any) -> Tensor:
    """An SAE's mean activation of each latent per picture [n, L], over the middle of the path."""
    store = collection.store
    steps, positions, channels = store.layout.shapes()["tokens"]
    size = SAESize(latents=1280, coarse=256, k=12, epochs=3)
    config = size.config(channels, len(collection.samples) * steps * positions, 0)
    sae = train_on(store, collection.samples, config).sae
    middle = [i for i, place in enumerate(store.steps.tolist()) if 0.4 <= place <= 0.9]
    rows = []
    for part in torch.tensor(collection.samples).split(BATCH):
        tokens = store.tokens(part.tolist(), steps=middle).float()
        rows.append(sae.encode(tokens.flatten(0, 2)).view(len(part), -1, sae.d_sae).mean(1))
    return torch.cat(rows)


def _cells(truths: list[Truth]) -> Tensor:
    """Gender and skin of each picture [N, 2], -1 where it is of another concept."""
    rows = []
    for truth in truths:
        tables = load_world().truth[truth.concept]
        for kind in truth.kinds:
            right = kind.concept == truth.concept
            rows.append([list(tables[a]).index(kind[a]) if right else -1 for a in ATTRIBUTES])
    return torch.tensor(rows)


class Spent:
    """A progress that adds up the CPU seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.process_time()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Count the time since the last report for this stage."""
        now = time.process_time()
        self.seconds[stage] += now - self.last
        self.last = now


def main() -> None:
    """Train and judge the arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    lab_options(parser)
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, "sae"), default=list(ARMS))
    parser.add_argument("--test", type=int, default=1000, help="held-out pictures per concept")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of our arms, in the first round")
    parser.add_argument("--rounds", type=int, default=2, help="of ours and losses")
    parser.add_argument("--official-steps", type=int, default=6000, help="of the official recipe")
    parser.add_argument("--groups", type=int, default=48)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--end", type=float, default=1.0, help="end of the guidance's window")
    parser.add_argument("--strength", type=float, default=1.15, help="of inferred groups' guidance; the oracle has 1")
    parser.add_argument("--bf16", action="store_true", help="faster where the CPU has it, far slower where not")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", type=Path, help="a file in the cache, judged as ours; nothing is trained")
    options = parser.parse_args()
    torch.set_grad_enabled(True)
    bench, rows, bases, fair = Bench(options), {}, {}, {}
    # Base first: the others' quality is measured against its pictures; then fair, whose pictures are to be covered.
    for name in ("base", *sorted(set(options.arms) - {"base"}, key=(*ARMS[::-1], "sae").index)):
        with bench.arm(name) as (about, taps):
            print(json.dumps({"arm": name, **about}), flush=True)
            rows[name] = {}
            for concept in bench.concepts:
                truth, embedded = bench.judged(name, concept, taps)
                bases.setdefault(concept, truth)
                if name == "fair":
                    fair[concept] = embedded
                rows[name][concept] = measured(truth, embedded, bases[concept], fair.get(concept))
                print(json.dumps({"arm": name, "concept": concept, **rows[name][concept]}), flush=True)
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()

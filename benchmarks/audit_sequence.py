"""A whole audit against the official scripts' sequence, on the same pictures in one run.

    python benchmarks/audit_sequence.py [--pipeline DIR] [--images 500]

Shared by both: the pipeline, its sampler and seeds, so the pictures; the CLIP model; torch; the autoencoder's shape,
k, epochs and batch size; the process and its threads.
Not shared. The official sequence (RAIGen's scripts, written anew from their description): every token of every
step goes to disk, one file a picture, with a PNG; training reads them all back, batches of whole pictures, by dense
products; scoring encodes all latents at the last step, pictures are read and embedded from their PNGs, and the
latents are ranked and pruned. Ours: five steps recorded into the store, pictures embedded as they are made, mixed
batches, sparse training; then what the official scripts lack: nulls, intervals, groups, names, heatmaps, the HTML
report. Left out of both: turning features up (official: by prompt rewriting with a language model).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hapax.core.audit import Audit
from hapax.core.audit_settings import AuditSettings
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.collect import Sampling, batches
from hapax.core.emoji import DEMO, MODEL_FOLDER, load_clip, phrases
from hapax.core.findings import SAESize
from hapax.core.sae import MatryoshkaSAE, SAEConfig, calibrate_threshold
from hapax.core.taps import Recorder
from PIL import Image
from sae_training import dense_loss
from safetensors.torch import load_file, save_file
from scoring import official_activations, official_scores
from torch import Tensor

PROMPT, SAVED = "a photo of a firefighter", 256


class Stages(dict[str, float]):
    """Seconds by stage."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self[stage] = self.get(stage, 0.0) + time.perf_counter() - began


class Official:
    """The official scripts' sequence in a folder."""

    def __init__(self, backend: DiffusersBackend, settings: AuditSettings, folder: Path) -> None:
        self.backend, self.settings, self.folder, self.stages = backend, settings, folder, Stages()
        folder.mkdir()

    def run(self) -> int:
        """Do it all; return how many latents are kept."""
        with self.stages.timed("sampling"):
            self.cache()
        with self.stages.timed("training"):
            sae = self.train()
        with self.stages.timed("scoring"):
            tokens = torch.stack([self.tokens(seed)[-1:] for seed in self.settings.seeds()])
            activations = official_activations(sae, tokens)
        with self.stages.timed("embedding"):
            embedder = load_clip()
            parts = []
            for seeds in batches(self.settings.seeds(), 64):
                parts.append(embedder.images([Image.open(self.folder / f"{seed}.png") for seed in seeds]))
        with self.stages.timed("scoring"):
            latents, _ = official_scores(activations, torch.cat(parts), sae.prefix_sizes[0])
        return len(latents)

    def cache(self) -> None:
        """Sample; write all tokens of all steps, and the pictures."""
        sampling = self.settings.sampling
        for seeds in batches(self.settings.seeds(), sampling.batch_size):
            recorder = Recorder([(i + 0.5) / sampling.steps for i in range(sampling.steps)])
            pictures = sampling.pictures(self.backend, PROMPT, seeds, {self.settings.site: recorder})
            for row, seed in enumerate(seeds):
                save_file({"tokens": recorder.take(row)[0].half()}, self.folder / f"{seed}.safetensors")
                pictures[row].resize((SAVED, SAVED), Image.Resampling.LANCZOS).save(self.folder / f"{seed}.png")

    def tokens(self, seed: int) -> Tensor:
        return load_file(self.folder / f"{seed}.safetensors")["tokens"]

    def train(self) -> MatryoshkaSAE:
        """Dense training on batches of whole pictures, all of their tokens, in float32."""
        seeds = list(self.settings.seeds())
        steps, positions, channels = self.tokens(seeds[0]).shape
        config = self.settings.sae.config(channels, len(seeds) * steps * positions, self.settings.seed)
        sae = MatryoshkaSAE(channels, config.d_sae, config.prefix_sizes, config.k, seed=config.seed)
        sae.requires_grad_(True)
        optimiser = torch.optim.Adam(sae.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
        generator, few = torch.Generator().manual_seed(config.seed), max(1, config.batch_size // (steps * positions))
        for _ in range(config.epochs):
            for rows in torch.randperm(len(seeds), generator=generator).split(few):
                x = torch.cat([self.tokens(seeds[row]).flatten(0, 1) for row in rows.tolist()]).float()
                self.step(sae, optimiser, x, config)
        sae.requires_grad_(False)
        calibrate_threshold(sae, self.tokens(seeds[0]).flatten(0, 1).float())
        return sae

    def step(self, sae: MatryoshkaSAE, optimiser: torch.optim.Optimizer, x: Tensor, config: SAEConfig) -> None:
        optimiser.zero_grad()
        dense_loss(sae, x, config).backward()
        W, g = sae.W_dec.detach(), sae.W_dec.grad
        assert g is not None
        g -= (g * W).sum(1, keepdim=True) * W
        optimiser.step()
        sae.normalise_decoder()


def size(folder: Path) -> float:
    """Megabytes in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--images", type=int, default=500)
    arguments = parser.parse_args()
    settings = AuditSettings(
        prompts=(PROMPT,),
        images=arguments.images,
        bank=phrases(),
        amplified=0,
        sampling=Sampling(DEMO["steps"], DEMO["guidance"], batch_size=50),
        positions=16,
        sae=SAESize(latents=1280, coarse=256, k=12, epochs=6),
    )
    backend = DiffusersBackend.from_folder(arguments.pipeline)
    backend.sample(PROMPT, [0], steps=2, guidance=1.0)
    with tempfile.TemporaryDirectory() as folder:
        official, out = Official(backend, settings, Path(folder) / "official"), Path(folder) / "ours"
        kept = official.run()
        audit = Audit(backend, load_clip(), settings, out, lambda *_: None, "the embedded emoji model")
        out.mkdir()
        began = time.perf_counter()
        audit.run(resume=False, command="hapax audit")
        whole = time.perf_counter() - began
        found = len(json.loads((out / "audit.json").read_text())["prompts"][0]["features"])
        sizes = size(official.folder), size(out / "activations")
    stages = {"official": official.stages, "ours": Stages(audit.timings)}
    stages["ours"]["the rest, report"] = whole - sum(stages["ours"].values())
    print(f"{arguments.images} pictures of {PROMPT!r}, {torch.get_num_threads()} thread(s); seconds:")
    for stage in dict.fromkeys([*stages["official"], *stages["ours"]]):
        print(f"{stage:20}" + "".join(f"{each.get(stage, 0.0):12.1f}" for each in stages.values()))
    totals = [sum(each.values()) for each in stages.values()]
    later = [sum(seconds for name, seconds in each.items() if name != "sampling") for each in stages.values()]
    print(f"{'':20}{'official':>12}{'ours':>12}{'ratio':>8}")
    for name, (one, two) in (("whole", totals), ("after sampling", later), ("MB on disk", sizes)):
        print(f"{name:20}{one:12.1f}{two:12.1f}{one / two:8.2f}")
    print(f"official keeps {kept} latents, ours lists {found} features")


if __name__ == "__main__":
    main()

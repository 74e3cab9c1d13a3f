"""What an audit shows of one prompt: exemplars with heatmaps, a sample sheet, pictures before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .activations import ActivationStore
from .amplify import Amplified
from .backends.diffusers import DiffusersBackend
from .collect import Progress, Recording, Sampling, batches
from .exemplars import heatmaps, overlay
from .findings import Found
from .taps import Recorder

SHEET_COLUMNS, SHEET_ROWS = 8, 3


def feature_row(
    prompt: int,
    row: dict[str, Any],
    latents: Sequence[int],
    names: Sequence[tuple[str, float]],
    exemplars: list[dict[str, Any]],
) -> dict[str, Any]:
    """A feature as audit.json has it: its numbers, the latents that say the same, its names, its pictures."""
    return {key: value for key, value in row.items() if key != "effective"} | {
        "id": f"p{prompt}-f{latents[0]}",
        "group": list(latents[1:]),
        "label": names[0][0] if names else None,
        "label_score": names[0][1] if names else None,
        "labels": [list(name) for name in names],
        "exemplars": exemplars,
    }


class Gallery:
    """Pictures of one prompt's features, written under `out`/images; all paths it returns are relative to `out`."""

    def __init__(
        self,
        out: Path,
        index: int,
        backend: DiffusersBackend,
        sampling: Sampling,
        recording: Recording,
        prompt: str,
        store: ActivationStore,
        found: Found,
    ) -> None:
        self.out, self.name = out, f"images/p{index}"
        self.index, self.prompt = index, prompt
        self.backend, self.sampling, self.recording = backend, sampling, recording
        self.store, self.found = store, found
        (out / self.name).mkdir(parents=True, exist_ok=True)

    def features(self, report: Progress) -> list[dict[str, Any]]:
        """The listed features with their numbers, names and exemplars."""
        found, table = self.found, self.found.table.rows()
        rows = {row["latent"]: row for row in table}
        seeds = [sample.seed for sample in self.store.samples]
        shown = {group[0]: found.exemplars(number).tolist() for number, group in enumerate(found.groups)}
        wanted = sorted({seeds[found.samples[i]] for indices in shown.values() for i in indices})
        pictures, tokens = self._again(wanted, report)
        features = []
        for number, (group, names) in enumerate(zip(found.groups, found.labels, strict=True)):
            latent = group[0]
            row = rows[latent] | {"prevalence": found.prevalence(number)}
            chosen = [seeds[found.samples[i]] for i in shown[latent]]
            entries = self._exemplars(number, chosen, shown[latent], pictures, tokens)
            features.append(feature_row(self.index, row, group, names, entries))
        return features

    def _again(self, seeds: Sequence[int], report: Progress) -> tuple[dict[int, Image.Image], dict[int, Tensor]]:
        """Make pictures of some seeds again, now recording every position: picture and tokens [S, P, C] by seed."""
        pictures: dict[int, Image.Image] = {}
        tokens: dict[int, Tensor] = {}
        for batch in batches(seeds, self.sampling.batch_size):
            recorder = Recorder(self.recording.progress)
            made = self.sampling.pictures(self.backend, self.prompt, batch, {self.recording.site: recorder})
            for row, seed in enumerate(batch):
                pictures[seed], tokens[seed] = made[row], recorder.take(row)[0]
            report(f"exemplars {self.index + 1}", len(pictures), len(seeds))
        return pictures, tokens

    @torch.no_grad()
    def _exemplars(
        self,
        number: int,
        seeds: list[int],
        rows: list[int],
        pictures: dict[int, Image.Image],
        tokens: dict[int, Tensor],
    ) -> list[dict[str, Any]]:
        sae, leads, activations = self.found.trained.sae, self.found.leads[number], self.found.activations(number)
        which = torch.tensor(leads)
        values = torch.stack(
            [
                sae.encode_rows(tokens[seed].flatten(0, 1), which).amax(1).view(tokens[seed].shape[:2]).mean(0)
                for seed in seeds
            ]
        )
        entries = []
        size = max(pictures[seeds[0]].size)
        for seed, row, heat in zip(seeds, rows, heatmaps(values, size, grid=self.recording.grid), strict=True):
            picture = pictures[seed].convert("RGB")
            pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
            laid = overlay(pixels.view(picture.height, picture.width, 3), heat)
            entries.append(
                {
                    "seed": seed,
                    "activation": float(activations[row]),
                    "image": self._save(picture, f"s{seed}"),
                    "heatmap": self._save(Image.fromarray(laid.numpy()), f"f{leads[0]}-s{seed}"),
                }
            )
        return entries

    def sheet(self) -> str:
        """A contact sheet of the first pictures: what the prompt usually gives."""
        thumbnails = self.store.thumbnails(self.found.samples[: SHEET_COLUMNS * SHEET_ROWS])
        rows = [torch.cat(list(row), 1) for row in thumbnails.split(SHEET_COLUMNS) if len(row) == SHEET_COLUMNS]
        return self._save(Image.fromarray(torch.cat(rows).numpy()), "sheet")

    def amplified(self, latent: int, result: Amplified) -> dict[str, Any]:
        """One feature turned up, as audit.json has it."""

        def saved(kind: str, pictures: list[Image.Image]) -> list[str]:
            named = zip(result.seeds, pictures, strict=True)
            return [self._save(picture, f"f{latent}-{kind}-s{seed}") for seed, picture in named]

        mixed = None
        if result.mixed_prompt:
            mixed = {
                "prompt": result.mixed_prompt,
                "share": 0.5,
                "pictures": saved("mixed", result.mixed),
                "rate": result.rate_mixed,
            }
        return {
            "strength": result.push.strength,
            "window": list(result.push.window),
            "mode": result.push.mode,
            "seeds": result.seeds,
            "before": saved("before", result.before),
            "after": saved("after", result.after),
            "rate_before": result.rate_before,
            "rate_after": result.rate_after,
            "measured_by": "CLIP: beyond the gap between the feature's pictures and the prompt's others",
            "mixed": mixed,
        }

    def _save(self, picture: Image.Image, name: str) -> str:
        path = f"{self.name}/{name}.png"
        picture.save(self.out / path)
        return path

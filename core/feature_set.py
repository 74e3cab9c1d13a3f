"""What was found in one recording, as it is shown, turned up and saved: features with names and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .activation_reader import ActivationReader
from .direction import Direction
from .errors import HapaxError
from .feature_table import FeatureTable
from .findings import Found
from .pattern import AddPattern, Approach, Pattern
from .sae import TrainedSAE
from .steering import Scope, SteerFeatures
from .taps import Tap

EXEMPLARS, SHEET = 10, 24
MODES = ("amplify", "suppress", "multiply", "approach")
Mode = Literal["amplify", "suppress", "multiply", "approach"]


@dataclass(frozen=True, eq=False)
class Feature:
    """One feature with its evidence.

    Attributes:
        number: its place in the list, from 1.
        latents: of the SAE; the first was scored, the others say the same.
        row: the scored latent's numbers, as in `FeatureTable`.
        prevalence: in how many of the pictures it shows, as `Found.prevalence` has it.
        labels: names with scores, best first; empty when none fits.
        pattern: what the latents are where it shows and where not: what amplifying goes towards.
        seeds, activations: of its exemplars, strongest first, K of them.
        threshold: the weakest image-level activation that counts as firing.
        pictures: uint8 [K, H, W, 3].
        heat: fp32 [K, h, w] in [0, 1], where in them it fires; one scale for all.
    """

    number: int
    latents: tuple[int, ...]
    row: dict[str, Any]
    prevalence: dict[str, float | int]
    labels: list[tuple[str, float]]
    pattern: Pattern
    seeds: list[int]
    activations: list[float]
    threshold: float
    pictures: Tensor
    heat: Tensor

    @property
    def latent(self) -> int:
        """The latent that was scored."""
        return self.latents[0]

    @property
    def label(self) -> str | None:
        """The best name, or None if none fits."""
        return self.labels[0][0] if self.labels else None

    @property
    def name(self) -> str:
        """The label, or the latent's number."""
        return self.label or f"latent {self.latent}"

    def describe(self) -> str:
        """Its numbers in words, one a line."""
        row = self.row
        lines = [
            f"{self.number}  {self.name}",
            f"shows in {self.prevalence['count']} of {self.prevalence['n']} pictures: {percent(self.prevalence)}",
            f"its latent fires on {row['count']}",
            f"minority score {row['score']:.2f}",
            f"distinctiveness {row['distinctiveness']:.3f}, {row['distinctiveness_z']:.1f} standard deviations "
            "above chance",
        ]
        if len(self.labels) > 1:
            lines.append("also near: " + ", ".join(text for text, _ in self.labels[1:]))
        lines.append("latents " + ", ".join(map(str, self.latents)))
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of one recording.

    Attributes:
        trained: the autoencoder with its metrics.
        provenance: of the recording: model, architecture, site, sampling, grid, steps.
        prompt: what was asked of the model, as far as it is known.
        features: those listed, best first.
        table: all latents that fire, ranked.
        seeds: of the pictures that were scored.
        sheet: uint8 [n, H, W, 3], the first pictures: what the prompt usually gives.
        settings: how it was scored: min_support, normalize, rare, seed, clip.
    """

    trained: TrainedSAE
    provenance: dict[str, Any]
    prompt: str
    features: tuple[Feature, ...]
    table: FeatureTable
    seeds: list[int]
    sheet: Tensor
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, store: ActivationReader, found: Found, prompt: str = "", settings: dict[str, Any] | None = None
    ) -> FeatureSet:
        """What `find_features` found, with pictures out of the store.

        Raises HapaxError if the store was recorded without thumbnails.
        """
        seeds = [sample.seed for sample in store.samples]
        rows = {row["latent"]: row for row in found.table.rows()}
        tokens = store.tokens(found.samples)
        features = [_feature(store, tokens, found, i, rows[group[0]], seeds) for i, group in enumerate(found.groups)]
        sheet = store.thumbnails(found.samples[:SHEET])
        own = [seeds[i] for i in found.samples]
        return cls(
            found.trained, dict(store.provenance), prompt, tuple(features), found.table, own, sheet, settings or {}
        )

    @property
    def site(self) -> str:
        """Where the activations were read."""
        return str(self.provenance.get("site", ""))

    @property
    def made_for(self) -> dict[str, Any]:
        """What `fits.check_fits` compares."""
        return {**self.provenance, "channels": self.trained.sae.d_in}

    def find(self, wanted: str) -> Feature:
        """The feature that a text means: its number in the list, `latent 17`, its label or a part of that.

        Raises HapaxError if there is none, or more than one.
        """
        text = " ".join(wanted.casefold().split())
        hits = [f for f in self.features if text in (str(f.number), f"latent {f.latent}", f.name.casefold())]
        hits = hits or [f for f in self.features if text and text in f.name.casefold()]
        if len(hits) == 1:
            return hits[0]
        listed = "; ".join(f"{f.number} {f.name}" for f in self.features) or "none: nothing rare was found"
        what = "is not among the features" if not hits else "means several features"
        raise HapaxError(f"{wanted!r} {what}; give the number or the name of one of these: {listed}.")

    def edit(self, feature: Feature, strength: float, mode: Mode = "amplify", scope: Scope | None = None) -> Tap:
        """The edit that turns a feature up or down.

        Args:
            feature: one of this set's.
            strength: 0 is an exact no-op.
            mode: `amplify` adds what differs by nature where the feature shows, strength times; `suppress` takes it
                away. `multiply` makes the feature's own latents 1 + strength times as active where they fire.
                `approach` goes that part of the way to how it is by nature, so that it ends as the feature shows.
                `hapax audit` tries amplify and approach.
            scope: when, for whom and where.
        """
        sae = self.trained.sae
        if mode == "multiply":
            return SteerFeatures(sae, feature.latents, mode="scale", strength=strength, scope=scope)
        if mode not in MODES:
            raise HapaxError(f"mode is {mode!r}; give one of {', '.join(MODES)}.")
        if mode == "approach":
            return Approach(sae, feature.pattern, strength=strength, scope=scope)
        sign = 1 if mode == "amplify" else -1
        return AddPattern(sae, feature.pattern, strength=sign * strength, scope=scope)

    def direction(self, feature: Feature) -> Direction:
        """What `amplify` adds, with its thumbnail and provenance: equal strengths do the same."""
        from .. import __version__

        pattern, sae = feature.pattern, self.trained.sae
        rows = sae.W_dec[pattern.latents.to(sae.W_dec.device)].detach().cpu().clone()
        change = pattern.shown - pattern.others
        push = change.mean((0, 1, 2)) @ rows
        own = Pattern(torch.arange(len(rows)), change, torch.zeros_like(change), pattern.progress)
        meta = {key: self.provenance[key] for key in ("model", "architecture") if key in self.provenance}
        meta |= {
            "label": feature.label,
            "prompt": self.prompt,
            "latents": list(feature.latents),
            "prevalence": feature.prevalence,
            "score": feature.row["score"],
            "pictures": len(self.seeds),
            "seeds": feature.seeds,
            "versions": {**self.provenance.get("versions", {}), "hapax": __version__, "torch": torch.__version__},
        }
        scale = float(push.norm())
        return Direction(push, self.site, scale, meta, thumbnail=feature.pictures[0], pattern=own, rows=rows)

    def text(self) -> str:
        """The list as a table in plain text."""
        head = f"{len(self.features)} rare features in {len(self.seeds)} pictures, {len(self.table)} latents scored"
        rows = [("", "feature", "pictures", "share (95 %)", "score", "z")]
        for f in self.features:
            z, score = f.row["distinctiveness_z"], f.row["score"]
            share = percent(f.prevalence)
            rows.append((str(f.number), f.name, str(f.prevalence["count"]), share, f"{score:.2f}", f"{z:.1f}"))
        return "\n".join([head, "", *aligned(rows)]) if self.features else f"{head}: nothing both rare and distinct."


def percent(rate: dict[str, float | int]) -> str:
    """A rate with its interval in percent.

    >>> percent({"count": 5, "n": 100, "rate": 0.05, "low": 0.031, "high": 0.0694})
    '5.0 % (3.1 to 6.9)'
    """
    return f"{100 * rate['rate']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines with aligned columns; the last two are set flush right.

    >>> aligned([("a", "1", "20"), ("bcd", "100", "3")])
    ['a      1  20', 'bcd  100   3']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = len(widths) - 2
    return [
        "  ".join(c.rjust(w) if i >= right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def recorded_grid(positions: Tensor, width: int | None = None) -> tuple[int, int]:
    """(h, w) of the sub-grid that recorded positions [P] form in a token grid of this width (square if None).

    Raises HapaxError if they form none.

    >>> recorded_grid(torch.tensor([5, 7, 13, 15]), 4)
    (2, 2)
    """
    width = width or max(1, round((int(positions.max()) + 1) ** 0.5))
    h, w = (len(torch.unique(part)) for part in (positions // width, positions % width))
    if h * w != len(positions):
        raise HapaxError(f"The {len(positions)} recorded positions form no grid; record with evenly spread positions.")
    return h, w


@torch.no_grad()
def _feature(
    store: ActivationReader, tokens: Tensor, found: Found, index: int, row: dict[str, Any], seeds: list[int]
) -> Feature:
    group, leads, sae, seen = found.groups[index], found.leads[index], found.trained.sae, found.looks[index]
    pooled = found.activations(index)
    shown = found.exemplars(index, EXEMPLARS).tolist()
    places = [found.samples[i] for i in shown]
    width = store.provenance.get("grid")
    grid = recorded_grid(store.positions, width and int(width[1]))
    there = tokens[shown]
    z = sae.encode_rows(there.flatten(0, 2).to(sae.W_dec), torch.tensor(leads, device=sae.W_dec.device))
    heat = z.amax(1).view(there.shape[:3]).mean(1).cpu()
    return Feature(
        number=index + 1,
        latents=tuple(group),
        row=row,
        prevalence=found.prevalence(index),
        labels=found.labels[index],
        pattern=Pattern.of(sae, tokens, seen.shown, store.steps.tolist(), grid),
        seeds=[seeds[i] for i in places],
        activations=pooled[shown].tolist(),
        threshold=float(pooled[pooled > 0].min()),
        pictures=store.thumbnails(places),
        heat=(heat / heat.max().clamp_min(1e-30)).view(-1, *grid),
    )

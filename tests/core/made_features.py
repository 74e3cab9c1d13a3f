"""A feature set of known contents, made without a recording."""

from __future__ import annotations

import torch
from hapax.core.feature_set import Feature, FeatureSet
from hapax.core.feature_table import FeatureTable
from hapax.core.pattern import Pattern
from hapax.core.prevalence import share
from hapax.core.sae import MatryoshkaSAE, TrainedSAE

PICTURES = 100
COUNTS = {3: 6, 5: 12, 1: 40}


def make() -> FeatureSet:
    """Three latents fired; two of them are features, `line sketch` and one without a name."""
    table = _table()
    rows = {row["latent"]: row for row in table.rows()}
    sae = MatryoshkaSAE(8, 16, (8, 16), 2)
    sae.threshold.fill_(0.5)
    metrics = {"fvu": [0.4, 0.2], "l0": [1.0, 2.0], "dead": [0.0, 0.1]}
    named = [(3, (3, 6), [("line sketch", 0.4), ("a drawing", 0.3)]), (5, (5,), [])]
    features = [_feature(i + 1, latents, rows[latent], labels) for i, (latent, latents, labels) in enumerate(named)]
    provenance = {"model": "abc", "architecture": "SD15", "site": "mid", "grid": [2, 2], "steps": [0.3, 0.6]}
    provenance["sampling"] = {"steps": 20, "cfg": 7.0, "sampler": "euler"}
    clip = {"name": "hapax-emoji", "fingerprint": "def"}
    settings = {"min_support": 5, "normalize": "rank", "rare": 0.2, "seed": 0, "clip": clip}
    sheet = torch.randint(0, 256, (20, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    trained, seeds = TrainedSAE(sae, metrics), list(range(PICTURES))
    return FeatureSet(trained, provenance, "a photo of a cook", tuple(features), table, seeds, sheet, settings)


def _table() -> FeatureTable:
    counts = torch.tensor(list(COUNTS.values()))
    n, f = len(counts), counts / PICTURES
    middle = {"distinctiveness": 0.3, "distinctiveness_low": 0.2, "distinctiveness_high": 0.4}
    return FeatureTable(
        latent=torch.tensor(list(COUNTS)),
        count=counts,
        effective=counts.float(),
        frequency=f,
        frequency_low=f / 2,
        frequency_high=(2 * f).clamp(max=1),
        distinctiveness_z=torch.tensor([9.0, 5.0, 1.0]),
        distinctiveness_p=torch.tensor([1e-9, 1e-5, 0.1]),
        score=torch.tensor([0.9, 0.8, 0.1]),
        finding=torch.tensor([True, True, False]),
        **{name: torch.full((n,), value) for name, value in middle.items()},
    )


def _feature(number: int, latents: tuple[int, ...], row: dict, labels: list) -> Feature:
    generator = torch.Generator().manual_seed(number)
    count, kept = row["count"], min(10, row["count"])
    pictures = torch.randint(0, 256, (kept, 32, 48, 3), dtype=torch.uint8, generator=generator)
    heat = torch.rand(kept, 2, 2, generator=generator)
    shown, others = torch.rand(2, 2, 2, 2, 2, generator=generator)
    pattern = Pattern(torch.tensor([latents[0], 9]), 3 * shown, others, torch.tensor([0.3, 0.6]))
    there = torch.arange(PICTURES) < count
    levels = [float(10 - i) for i in range(kept)]
    return Feature(
        number,
        latents,
        row,
        share(there),
        labels,
        pattern,
        list(range(kept)),
        levels,
        1.0,
        pictures,
        heat / heat.max(),
    )

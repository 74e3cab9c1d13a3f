"""A recording in which the rare feature is known: 12 of 150 pictures carry a direction, and look blue to CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hapax.core.activations import ActivationStore
from hapax.core.collect import Recording
from hapax.nodes.features import FindRareFeatures
from hapax.nodes.scoring import BUILT_IN, LoadCLIPScorer, Scorer
from hapax.nodes.stores import provenance
from torch import Tensor

PICTURES, CHANNELS, PROMPT = 150, 128, "a photo of a firefighter"
RARE = tuple(range(7, PICTURES, 12))[:12]
STEPS, GRID, LEVEL = (0.2, 0.4, 0.6), (2, 2), 24.0


def planted_direction() -> Tensor:
    """[C] of unit norm: what the rare pictures have more of."""
    vector = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(99))
    return vector / vector.norm()


def record(folder: Path, model: object, scorer: Scorer, *, embeddings: bool = True) -> ActivationStore:
    """Write the recording; its provenance is that of a harvest from `model`."""
    recording = Recording("mid", STEPS, torch.arange(4), GRID, CHANNELS)
    made = provenance(model, recording, scorer, sampler="euler", scheduler="normal", steps=4, cfg=5.0, size=[64, 64])
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(6, CHANNELS, generator=generator)
    width = scorer.texts(["a"]).shape[1]
    looks = torch.nn.functional.normalize(torch.randn(2, width, generator=generator), dim=1)
    store = ActivationStore.create(folder, made)
    for seed in range(PICTURES):
        rare = seed in RARE
        tokens = torch.randn(12, 6, generator=generator) @ usual + 0.1 * torch.randn(12, CHANNELS, generator=generator)
        # The second position only, so that heatmaps have something to show.
        tokens[1::4] += LEVEL * planted_direction() * rare
        look = looks[0] + rare * looks[1] + 0.3 * torch.randn(width, generator=generator) / width**0.5
        colour = torch.tensor([30, 40, 200] if rare else [200, 60, 40], dtype=torch.uint8)
        sample = {"prompt": PROMPT, "seed": seed, "caption": PROMPT, "thumbnail": colour.expand(64, 64, 3)}
        if embeddings:
            sample["embedding"] = torch.nn.functional.normalize(look, dim=0)
        store.append(sample, tokens, recording.labels())
    store.close()
    return ActivationStore.open(folder)


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    with torch.inference_mode():
        return LoadCLIPScorer.execute(BUILT_IN, "ViT-L-14").result[0]


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, tiny_models, scorer: Scorer) -> ActivationStore:
    """The recording, of the tiny SD1.5."""
    return record(tmp_path_factory.mktemp("planted") / "store", tiny_models.build_model("sd15"), scorer)


@pytest.fixture(scope="session")
def findings(planted: ActivationStore, scorer: Scorer) -> tuple:
    """What Find Rare Features makes of it, run as the server runs it: features, sheet, table, sae."""
    with torch.inference_mode():
        return find(planted, scorer).result


def find(store: ActivationStore, scorer: Scorer, **changed: object):
    """Run Find Rare Features with its defaults."""
    settings = dict(prompt="", listed=10, rare=0.2, min_pictures=5, seed=0, normalize="rank", phrases="", sae=None)
    return FindRareFeatures.execute(store, scorer, **{**settings, **changed})

"""Findings are named by an index of captions where there is one, and by CLIP over a bank where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.directions import CaptionIndex
from hapax.core.emoji import load_clip
from hapax.core.emoji.render import render
from hapax.core.emoji.world import load_world
from hapax.core.errors import HapaxError
from hapax.core.feature_stats import FeatureStats
from hapax.core.findings import Profile
from hapax.core.labels import FeatureCentroid
from hapax.core.naming import Namer
from hapax.core.sae import MatryoshkaSAE
from PIL import Image

BANK = ("a cat", "a dog", "a cat, sketch", "something else altogether")


@pytest.fixture(scope="module")
def index(tiny_pipelines) -> CaptionIndex:
    backend = DiffusersBackend(tiny_pipelines.build("sd1"))
    return CaptionIndex.build(backend, BANK, seeds=4, steps=2, guidance=1.0)


def no_clip(texts):
    raise AssertionError("CLIP isn't asked where there is an index")


def test_an_index_names_by_what_the_model_does(index: CaptionIndex) -> None:
    namer, nowhere = Namer((), index), torch.zeros(3)
    labeller = namer.labeller("a cat", no_clip)(torch.zeros(9, 3))
    shift = index.offsets()[1].float()
    assert labeller.label(FeatureCentroid(0, nowhere, nowhere, 9.0, shift))[0] == ("a dog", pytest.approx(1, abs=1e-4))
    assert labeller.label(FeatureCentroid(0, nowhere, nowhere, 9.0, torch.ones(16))) == []
    assert namer.row() == {"by": "index", "captions": 4}


def test_without_an_index_clip_names_by_the_bank() -> None:
    """Rendered pictures of one prompt, of which a few are night scenes."""
    clip, world = load_clip(), load_world()
    kinds = [kind for kind in world.kinds("firefighter") for _ in range(3)]
    pictures = [Image.fromarray(np.round(render(kind) * 255).astype(np.uint8)) for kind in kinds]
    embeddings = clip.images(pictures)
    fires = torch.tensor([[float(kind["style"] == "night scene")] for kind in kinds])
    namer = Namer(("line sketch", "night scene", "sepia print", "woman", "dark skin"))
    labeller = namer.labeller("a photo of a firefighter", clip.texts)(embeddings)
    assert labeller.label(FeatureCentroid.of(FeatureStats.of(fires, embeddings), 0))[0][0] == "night scene"
    assert namer.row() == {"by": "clip", "captions": 5}


def test_a_profile_is_the_sum_of_its_decoder_rows() -> None:
    torch.manual_seed(0)
    sae = MatryoshkaSAE(6, 8, (4, 8), 2)
    found = Profile(torch.tensor([1, 5]), torch.tensor([2.0, -0.5])).displacement(sae)
    torch.testing.assert_close(found, 2 * sae.W_dec[1] - 0.5 * sae.W_dec[5])


def test_bad_banks_and_indices_are_refused(index: CaptionIndex, tmp_path) -> None:
    path = tmp_path / "index.safetensors"
    index.save(path)
    fits = {"model": index.meta["model"], "site": "mid", "channels": 16, "architecture": "UNet2DConditionModel"}
    assert Namer.of((), path, fits).row() == {"by": "index", "captions": 4, "index": str(path)}
    for changed, said in (
        ({"model": "another"}, "built for model"),
        ({"site": "double.3"}, "built for site mid, but here it is double.3"),
        ({"channels": 8}, "built for channels 16, but here it is 8"),
        ({"architecture": "FluxTransformer2DModel"}, "built for architecture"),
    ):
        with pytest.raises(HapaxError, match=said):
            Namer.of((), path, fits | changed)
    with pytest.raises(HapaxError, match="The bank has 1 captions"):
        Namer.of(("a cat",), None, fits)
    with pytest.raises(HapaxError, match="no file"):
        Namer.of((), tmp_path / "gone.safetensors", fits)

"""Features saved beside an audit do what the ones in memory did."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.feature_audit import write_feature_audit
from hapax.core.feature_file import SAE_FILE, load_features, save_features
from hapax.core.library import FEATURES, content_hash
from hapax.core.sae import load_sae, save_sae
from hapax.core.tensor_file import read_tensors, write_tensors


@pytest.fixture
def folder(feature_set, tmp_path):
    write_feature_audit(feature_set, tmp_path, provenance={"reproduce": "Again."})
    return tmp_path


def changed(folder, change):
    tensors, header = read_tensors(folder / FEATURES, "file")
    change(tensors, header)
    write_tensors(folder / FEATURES, tensors, header)


def same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_everything_comes_back(folder, feature_set):
    loaded = load_features(folder)
    for name in ("provenance", "prompt", "seeds", "settings"):
        assert getattr(loaded, name) == getattr(feature_set, name)
    assert loaded.text() == feature_set.text()
    assert loaded.trained.metrics == feature_set.trained.metrics
    for one, other in zip(loaded.features, feature_set.features, strict=True):
        for field in fields(one):
            if field.name != "pattern":
                assert same(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("mode", ["amplify", "suppress", "multiply"])
def test_they_turn_the_model_as_before(folder, feature_set, make_step, mode):
    h = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    loaded, turned = load_features(folder), []
    for features in (feature_set, loaded):
        turned.append(features.edit(features.find("line sketch"), 2.0, mode)(h, make_step(h, progress=0.4)))
    assert torch.equal(*turned)
    assert not torch.equal(turned[0], h)


def test_its_hash_stands_for_the_autoencoder_too(folder):
    before = content_hash(folder / FEATURES)
    sae = load_sae(folder / SAE_FILE)
    sae.W_dec.mul_(2)
    save_sae(sae, folder / SAE_FILE)
    assert content_hash(folder / FEATURES) == before
    with pytest.raises(HapaxError, match="is not the autoencoder of"):
        load_features(folder)


def test_each_prompt_has_a_file_and_may_share_an_autoencoder(folder, feature_set):
    other = replace(feature_set, prompt="a photo of a judge", features=feature_set.features[:1])
    assert save_features(other, folder, prompt=1, sae=SAE_FILE) == folder / "features-2.safetensors"
    assert [load_features(folder, number).prompt for number in (0, 1)] == ["a photo of a cook", "a photo of a judge"]
    with pytest.raises(HapaxError, match="There is no file"):
        load_features(folder, 2)


def test_files_that_name_no_autoencoder_mean_the_first(folder):
    changed(folder, lambda tensors, header: header.pop("sae_file"))
    assert load_features(folder).features


def _meta(change):
    def apply(tensors, header):
        meta = json.loads(header["meta"])
        change(meta)
        header["meta"] = json.dumps(meta)

    return apply


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, h: h.update(format="hapax.sae"), "is not a file of features"),
        (lambda t, h: h.update(version="2"), "has format version 2"),
        (lambda t, h: h.update(sae_file="sae/../../elsewhere.safetensors"), "not in the folder sae"),
        (lambda t, h: h.update(sae_file="/sae/p0.safetensors"), "not in the folder sae"),
        (lambda t, h: h.update(meta="[" * 100000), "damaged header"),
        (lambda t, h: t.pop("1.shown"), "damaged header"),
        (lambda t, h: t.pop("table.score"), "damaged header"),
        (lambda t, h: t.update({"0.latents": t["0.latents"] + 99}), "doesn't fit the autoencoder"),
        (lambda t, h: t.update({"0.pictures": t["0.pictures"].float()}), "expected pictures of bytes"),
        (lambda t, h: t.update({"0.heat": t["0.heat"] / 0}), "NaN or infinity"),
        (_meta(lambda meta: meta["features"][0]["seeds"].pop()), "pictures and 5 seeds"),
        (_meta(lambda meta: meta["features"].append({})), "damaged header"),
        (_meta(lambda meta: meta.update(features=7)), "damaged header"),
    ],
)
def test_what_was_tampered_with_is_refused_in_a_sentence(folder, change, said):
    changed(folder, change)
    with pytest.raises(HapaxError, match=said):
        load_features(folder)


def test_a_folder_without_is_refused(tmp_path):
    with pytest.raises(HapaxError, match="There is no file"):
        load_features(tmp_path)

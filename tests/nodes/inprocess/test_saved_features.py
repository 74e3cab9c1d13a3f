"""Load Features: by name, by content, and what it says when there is nothing that fits."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.feature_audit import write_feature_audit
from hapax.core.feature_file import save_features
from hapax.core.library import FEATURES, content_hash
from hapax.nodes.saved_features import LoadFeatures
from hapax.nodes.steering import AmplifyFeature

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


@pytest.fixture
def saved(findings, base_directory):
    """Name and content of a saved audit, alone in the output folder."""
    shutil.rmtree(base_directory / "output" / "hapax", ignore_errors=True)
    folder = base_directory / "output" / "hapax" / "kept"
    folder.mkdir(parents=True)
    write_feature_audit(findings[0], folder, provenance={"reproduce": "Again."})
    return folder, content_hash(folder / FEATURES)


def test_it_turns_the_model_exactly_as_what_was_saved(saved, findings, sd15):
    loaded, table = LoadFeatures.execute("kept", "").result
    assert table == findings[2]
    turned = [
        sd15.sample(AmplifyFeature.execute(sd15.model, features, "1", 3.0).result[0])
        for features in (findings[0], loaded)
    ]
    assert torch.equal(*turned)
    assert not torch.equal(turned[0], sd15.sample())


def test_it_is_found_by_its_content_under_another_name(saved):
    folder, content = saved
    folder.rename(folder.with_name("elsewhere"))
    assert LoadFeatures.validate_inputs("kept", content) is True
    assert LoadFeatures.execute("kept", content.upper()).result[0].features
    assert "elsewhere" in LoadFeatures.fingerprint_inputs("kept", content)
    with pytest.raises(HapaxError, match="There is no audit 'kept'"):
        LoadFeatures.execute("kept", "")


def test_other_features_of_the_same_name_are_refused(saved):
    said = LoadFeatures.validate_inputs("kept", "0" * 64)
    assert "are others than this workflow was made with (SHA-256 000000000000...)" in said
    assert LoadFeatures.fingerprint_inputs("kept", "0" * 64) == ""


@pytest.mark.parametrize("name", ["(nothing here yet)", "", "../hapax/kept", "kept/../kept", "/etc", "kept/sae"])
def test_what_is_no_audit_is_named_with_what_to_do(saved, name):
    assert "import its zip in the Hapax tab" in LoadFeatures.validate_inputs(name, "")


def test_an_audit_of_several_prompts(saved, findings):
    folder, content = saved
    save_features(replace(findings[0], prompt="the other"), folder, prompt=1)
    first, second = (LoadFeatures.execute("kept", "", prompt).result[0] for prompt in (1, 2))
    assert (first.prompt, second.prompt) == (findings[0].prompt, "the other")
    assert LoadFeatures.fingerprint_inputs("kept", "", 1) != LoadFeatures.fingerprint_inputs("kept", "", 2)
    other = content_hash(folder / "features-2.safetensors")
    assert LoadFeatures.validate_inputs("gone", other, 2) is True
    assert "are others than this workflow was made with" in LoadFeatures.validate_inputs("kept", content, 2)
    assert "has no features of a prompt number 3" in LoadFeatures.validate_inputs("kept", "", 3)


def test_none_at_all(saved):
    shutil.rmtree(saved[0])
    assert "There is no audit 'kept'" in LoadFeatures.validate_inputs("kept", saved[1])

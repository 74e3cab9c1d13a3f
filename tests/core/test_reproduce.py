"""The prompt that makes one picture of an audit again."""

from __future__ import annotations

import json

import pytest
from hapax.core.errors import HapaxError
from hapax.core.reproduce import reproduce

HARVEST = {
    "model": ["1", 0],
    "positive": ["2", 0],
    "negative": ["3:7", 0],
    "vae": ["1", 2],
    "count": 10,
    "first_seed": 100,
    "steps": 12,
    "cfg": 4.5,
    "sampler_name": "dpmpp_2m",
    "scheduler": "karras",
    "width": ["5", 0],
    "height": 96,
    "batch_size": 25,
}


@pytest.fixture
def prompt():
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a cat"}},
        "3:7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {"class_type": "HapaxHarvestActivations", "inputs": dict(HARVEST)},
        "5": {"class_type": "PrimitiveInt", "inputs": {"value": 64}},
        "6": {"class_type": "HapaxFindRareFeatures", "inputs": {"activations": ["4", 0]}},
    }


@pytest.fixture
def of(tmp_path, prompt):
    def run(seed):
        (tmp_path / "prompt.json").write_text(json.dumps(prompt))
        return reproduce(tmp_path, seed)

    return run


def test_what_fed_the_harvest_feeds_a_sampler(of, prompt):
    made = of(107)
    assert {key: made[key] for key in ("1", "2", "3:7", "5")} == {key: prompt[key] for key in ("1", "2", "3:7", "5")}
    kinds = {node["class_type"]: node["inputs"] for node in made.values()}
    assert "HapaxHarvestActivations" not in kinds
    assert "HapaxFindRareFeatures" not in kinds
    sampler = kinds["KSampler"]
    same = ("model", "positive", "negative", "steps", "cfg", "sampler_name", "scheduler")
    assert {name: sampler[name] for name in same} == {name: HARVEST[name] for name in same}
    assert (sampler["seed"], sampler["denoise"]) == (107, 1.0)
    assert kinds["EmptyLatentImage"] == {"width": ["5", 0], "height": 96, "batch_size": 1}
    assert kinds["VAEDecode"]["vae"] == ["1", 2]
    for node in made.values():
        assert all(value[0] in made for value in node["inputs"].values() if isinstance(value, list))


def test_of_two_harvests_the_one_with_the_seed(of, prompt):
    prompt["7"] = {"class_type": "HapaxHarvestActivations", "inputs": {**HARVEST, "first_seed": 200, "cfg": 1.0}}
    (sampler,) = [node for node in of(203).values() if node["class_type"] == "KSampler"]
    assert sampler["inputs"]["cfg"] == 1.0
    with pytest.raises(HapaxError, match="has 0 nodes that harvested seed 5,"):
        of(5)
    prompt["7"]["inputs"]["first_seed"] = ["5", 0]
    with pytest.raises(HapaxError, match="has 2 nodes that harvested seed 103"):
        of(103)


def test_a_circle_ends(of, prompt):
    prompt["2"]["inputs"]["clip"] = ["2", 0]
    assert of(100)["2"] == prompt["2"]


@pytest.mark.parametrize("text", ["[]", "{", '{"1": 7}', '{"1": {"class_type": 1, "inputs": {}}}', "[" * 100000])
def test_what_is_no_prompt_is_refused(tmp_path, text):
    (tmp_path / "prompt.json").write_text(text)
    with pytest.raises(HapaxError, match="is not a prompt of ComfyUI"):
        reproduce(tmp_path, 1)


def test_an_audit_from_the_command_line_says_so(tmp_path):
    with pytest.raises(HapaxError, match="wasn't made in ComfyUI"):
        reproduce(tmp_path, 1)

"""The shipped weights: small, measured, loadable as ordinary models, and doing what the gates say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.emoji import CLIP_FOLDER, DEMO, MODEL_FOLDER, MODEL_INDEX, load_clip
from hapax.core.emoji.gates import CLIP, CONCEPT, FLOOR, GATES_FILE, HIGH, LOW, NAMED, failures
from hapax.core.emoji.judge import judge
from hapax.core.emoji.render import render_all
from hapax.core.emoji.world import load_world
from PIL import Image

pytestmark = pytest.mark.skipif(
    not MODEL_INDEX.exists(), reason="The emoji model's weights are not here: the audit and its model are NOT tested"
)

WORLD = load_world()


@pytest.fixture(scope="module")
def backend() -> DiffusersBackend:
    return DiffusersBackend.from_folder(MODEL_FOLDER)


@pytest.fixture(scope="module")
def gates() -> dict:
    return json.loads(GATES_FILE.read_text())


def test_weights_are_safetensors_in_half_precision_and_small() -> None:
    weights = [*MODEL_FOLDER.rglob("*.safetensors"), *CLIP_FOLDER.glob("*.safetensors")]
    assert sum(path.stat().st_size for path in weights) <= 25e6
    assert not [path for folder in (MODEL_FOLDER, CLIP_FOLDER) for path in folder.rglob("*.bin")]
    from safetensors.torch import load_file

    kinds = {tensor.dtype for path in weights for tensor in load_file(path).values() if tensor.is_floating_point()}
    assert kinds == {torch.float16}


def test_recorded_gates_hold(gates: dict) -> None:
    assert failures(gates) == gates["failures"] == []
    assert (CONCEPT, LOW, HIGH, FLOOR, NAMED, CLIP) == (0.97, 0.5, 1.6, 0.005, 0.90, 0.95)
    assert {key: gates[key] for key in DEMO} == DEMO
    assert set(gates["bare"]) == set(gates["named"]) == set(WORLD.concepts)
    assert all(row["pictures"] >= 1000 for row in gates["bare"].values())


def test_a_gate_that_fails_is_said(gates: dict) -> None:
    spoiled = json.loads(json.dumps(gates))
    spoiled["bare"]["cat"]["concept"] = 0.5
    spoiled["bare"]["car"]["attributes"]["blue"]["ratio"] = 2.0
    spoiled["named"]["judge"]["skin"] = 0.1
    spoiled["clip"]["held_out_accuracy"]["all"] = 0.2
    assert len(failures(spoiled)) == 4


def test_bare_prompts_give_their_concept(backend: DiffusersBackend) -> None:
    prompts = [WORLD.prompt(concept) for concept in WORLD.concepts] * 2
    pictures = backend.sample(prompts, range(len(prompts)), output="pt", batch_size=40, **DEMO)
    verdict = judge((pictures.permute(0, 2, 3, 1) * 255).round().byte())
    right = [kind.concept == concept for kind, concept in zip(verdict.kinds, WORLD.concepts * 2, strict=True)]
    assert np.mean(right) >= 0.9


def test_clip_tells_styles_apart() -> None:
    kinds = WORLD.kinds("cat")[:4]
    pictures = [Image.fromarray(p) for p in render_all(WORLD)[[WORLD.kinds().index(kind) for kind in kinds]]]
    clip = load_clip()
    texts = clip.texts([f"a photo of a cat, {kind['style']}" for kind in kinds])
    assert (clip.images(pictures) @ texts.T).argmax(1).tolist() == [0, 1, 2, 3]


def test_no_path_of_the_machine_ships() -> None:
    for path in [*MODEL_FOLDER.rglob("*.json"), *CLIP_FOLDER.glob("*.json")]:
        text = path.read_text()
        assert "/tmp" not in text
        assert str(Path.home()) not in text

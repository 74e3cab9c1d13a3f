"""Names from a workflow stay inside ComfyUI's own folders; what a MODEL is known by doesn't depend on what was run."""

from __future__ import annotations

import asyncio
import os

import folder_paths
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.nodes import folders
from hapax.nodes.extension import HapaxExtension
from hapax.nodes.fingerprint import conditioning_fingerprint, model_fingerprint, patches_fingerprint
from hapax.nodes.schema import to_image, to_pictures


@pytest.fixture
def models(base_directory):
    folder = base_directory / "models" / "hapax"
    (folder / "sae").mkdir(parents=True, exist_ok=True)
    for name in ("sae/kept.safetensors", "sae/other.bin", "plain.safetensors"):
        (folder / name).write_bytes(b"x")
    return folder


def test_only_safetensors_are_offered_and_found(models):
    assert "sae/kept.safetensors".replace("/", os.sep) in folders.model_files("sae")
    assert not any(name.endswith(".bin") for name in folders.model_files())
    assert folders.model_files("nothing-of-this-kind") == [folders.NOTHING]
    assert folders.model_file("plain.safetensors") == models / "plain.safetensors"
    assert folders.name_of(models / "plain.safetensors") == "plain.safetensors"
    assert folder_paths.get_folder_paths("hapax") == [str(models)]


@pytest.mark.parametrize("name", [folders.NOTHING, "sae/other.bin", "../../secret.safetensors", "missing.safetensors"])
def test_a_file_that_is_not_there_is_said(models, name):
    with pytest.raises(HapaxError, match=r"There is no file .* in ComfyUI's models/hapax; put a .safetensors file"):
        folders.model_file(name)


@pytest.mark.parametrize(
    "name", ["", " ", "..", "../up", "a/../../up", "/abs", "a//b", "C:\\x", "a\\..\\..\\b", "nul\0"]
)
@pytest.mark.parametrize("place", [folders.new_model_file, folders.output_folder, folders.existing_output_folder])
def test_names_that_lead_elsewhere_are_refused(models, place, name):
    with pytest.raises(HapaxError, match="is not a file or folder name inside"):
        place(name)


def test_names_may_have_folders(models):
    assert folders.new_model_file("mine/style", "sae") == models / "sae" / "mine" / "style.safetensors"
    assert folders.output_folder("a/b c.d").is_dir()


def test_a_changed_file_is_another(models):
    before = folders.fingerprint("plain.safetensors")
    (models / "plain.safetensors").write_bytes(b"longer")
    assert folders.fingerprint("plain.safetensors") != before
    assert folders.fingerprint("missing.safetensors") == ""


def test_a_loaded_lora_is_told_apart_from_the_checkpoint(sd15, tiny_models):
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    difference = torch.ones_like(sd15.model.model.state_dict()[key]) / 50
    lora, weaker = sd15.model.clone(), sd15.model.clone()
    lora.add_patches({key: ("diff", (difference,))}, 0.7)
    weaker.add_patches({key: ("diff", (difference,))}, 0.6)
    known = model_fingerprint(sd15.model)
    sd15.sample(lora)
    assert model_fingerprint(sd15.model) == model_fingerprint(lora) == known
    assert patches_fingerprint(sd15.model) is None
    assert patches_fingerprint(lora) != patches_fingerprint(weaker)
    again = sd15.model.clone()
    again.add_patches({key: ("diff", (difference.clone(),))}, 0.7)
    assert patches_fingerprint(again) == patches_fingerprint(lora)
    assert model_fingerprint(tiny_models.build_model("sd15", seed=1)) != known
    assert model_fingerprint(tiny_models.build_model("sd15")) == known


def test_conditionings_are_known_by_what_they_hold(sd15, tiny_models):
    known = conditioning_fingerprint(sd15.positive)
    assert conditioning_fingerprint(tiny_models.conditioning(1)) == known
    assert conditioning_fingerprint(sd15.negative) != known
    text, extra = sd15.positive[0]
    assert conditioning_fingerprint([[text, {**extra, "strength": 0.5}]]) != known
    assert conditioning_fingerprint([[text, {**extra, "uuid": object()}]]) == known


def test_pictures_survive_the_way_there_and_back():
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    image = pixels.float() / 255
    assert torch.equal(to_image(to_pictures(image)), image)
    assert torch.equal(to_image(pixels), image)
    assert [picture.size for picture in to_pictures(image)] == [(7, 5), (7, 5)]


def test_every_node_says_what_it_and_its_sockets_are():
    nodes = asyncio.run(HapaxExtension().get_node_list())
    schemas = [node.GET_SCHEMA() for node in nodes]
    assert len({schema.node_id for schema in schemas}) == len(schemas)
    for schema in schemas:
        assert schema.node_id.startswith("Hapax")
        assert schema.category.startswith("Hapax/")
        assert len(schema.description) > 20, schema.node_id
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip, f"{schema.node_id}.{socket.id}"

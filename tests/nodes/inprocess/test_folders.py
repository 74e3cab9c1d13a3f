"""Names from a workflow stay inside ComfyUI's own folders; what a MODEL is known by doesn't depend on what was run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re

import folder_paths
import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from hapax.core.errors import HapaxError
from hapax.core.steering import AddDirection, Scope
from hapax.nodes import autoencoder, captions, directions, folders, guidance, recording, scoring
from hapax.nodes.comfy_taps import add_tap
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


def test_a_file_is_found_by_its_content_under_any_name(models):
    names = {name: f"sae/{name}.safetensors".replace("/", os.sep) for name in ("mine", "renamed", "gone")}
    for name in ("mine", "renamed"):
        (models / names[name]).write_bytes(name.encode())
    (models / "renamed.safetensors").write_bytes(b"of another kind")
    content = hashlib.sha256(b"renamed").hexdigest()
    for name in ("gone", "mine"):
        assert folders.model_file(names[name], content.upper()) == models / names["renamed"]
        assert autoencoder.LoadSAE.validate_inputs(names[name], content) is True
    assert folders.fingerprint(names["mine"], content) == folders.fingerprint(names["renamed"])
    assert folders.model_file(names["mine"]) == models / names["mine"]
    other = hashlib.sha256(b"of another kind").hexdigest()
    with pytest.raises(HapaxError, match=r"is another than this workflow was made with \(SHA-256 .{12}\.\.\.\); put"):
        folders.model_file(names["mine"], other)
    with pytest.raises(HapaxError, match=r"There is no file .sae.gone"):
        folders.model_file(names["gone"], other)
    # The file's new content counts at once.
    (models / names["mine"]).write_bytes(b"now as long as another")
    assert autoencoder.LoadSAE.validate_inputs(names["mine"], hashlib.sha256(b"mine").hexdigest()) is not True


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


def hung(sd15):
    """`hung(strength, b1)`: the model with our push and FreeU on it, made anew each time."""

    def make(strength=3.0, b1=1.3, **scope):
        vector = torch.randn(128, generator=torch.Generator().manual_seed(5))
        model = add_tap(sd15.model, "mid", AddDirection(vector, strength=strength, scope=Scope(**scope)))
        if hasattr(FreeU_V2, "execute"):
            return FreeU_V2.execute(model, b1, 1.4, 0.9, 0.2).result[0]
        return FreeU_V2().patch(model, b1, 1.4, 0.9, 0.2)[0]

    return make


def test_what_other_nodes_hang_on_a_model_is_told_apart(sd15):
    make = hung(sd15)
    known = patches_fingerprint(make())
    assert known is not None
    assert patches_fingerprint(make()) == known
    changed = [make(strength=2.0), make(b1=1.2), make(end=0.5), make(mask=torch.ones(8, 8)), make().clone()]
    assert [patches_fingerprint(each) == known for each in changed] == [False] * 4 + [True]
    model = make()
    sd15.sample(model)
    assert patches_fingerprint(model) == known, "it depends on what was run"


def test_another_schedule_or_precision_is_told_apart(sd15):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    def scheduled(*how):
        return ModelSamplingDiscrete().patch(sd15.model, *how)[0]

    half = sd15.model.clone()
    half.set_model_compute_dtype(torch.bfloat16)
    single = sd15.model.clone()
    single.set_model_compute_dtype(torch.float32)
    models = [
        sd15.model,
        scheduled("eps", False),
        scheduled("v_prediction", False),
        scheduled("eps", True),
        half,
        single,
    ]
    assert len({patches_fingerprint(each) for each in models}) == len(models)
    assert patches_fingerprint(scheduled("eps", True)) == patches_fingerprint(models[3])


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


@pytest.fixture(scope="module")
def schemas():
    return [node.GET_SCHEMA() for node in asyncio.run(HapaxExtension().get_node_list())]


def test_every_node_says_what_it_and_its_sockets_are(schemas):
    assert len({schema.node_id for schema in schemas}) == len(schemas)
    for schema in schemas:
        assert schema.node_id.startswith("Hapax")
        assert schema.category.startswith("Hapax/")
        assert len(schema.description) > 20, schema.node_id
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip, f"{schema.node_id}.{socket.id}"


def test_every_widget_begins_with_a_value(schemas):
    """A combo without one begins with its first option."""
    for schema in schemas:
        for each in schema.inputs:
            kind, options = each.get_io_type(), each.as_dict()
            if kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
                assert options.get("default") is not None, f"{schema.node_id}.{each.id}"
            if kind == "COMBO":
                assert options["options"], f"{schema.node_id}.{each.id}"
                assert options.get("default", options["options"][0]) in options["options"]


def test_every_node_is_found_by_other_words_where_comfyui_can(schemas, comfyui_version):
    if not hasattr(schemas[0], "search_aliases"):
        assert comfyui_version < (0, 4), "this ComfyUI is newer than the one that had no aliases"
        return
    for schema in schemas:
        aliases = schema.search_aliases
        assert "hapax" in aliases, schema.node_id
        # Beyond the words that the search finds anyway.
        own = schema.display_name.casefold()
        assert [each for each in aliases if each != "hapax" and each.casefold() not in own], schema.node_id


def finders():
    nodes = [autoencoder.LoadSAE, captions.LoadCaptionIndex, directions.LoadDirection, guidance.LoadInvDiffGuidance]
    return [*nodes, recording.LoadActivations, scoring.LoadCLIPScorer]


@pytest.mark.parametrize("node", finders(), ids=lambda node: node.__name__)
def test_a_missing_file_is_said_before_the_run(models, node):
    assert re.search(r"^There is no (file|recording) 'gone' in ComfyUI's .*; .*\.$", node.validate_inputs("gone"))
    assert "is not a file or folder name" in folders.valid(folders.existing_output_folder, "../up")
    # Over a wire, a name is known only in the run.
    assert node.validate_inputs() is True


def test_a_file_that_is_there_is_no_fault(models):
    assert autoencoder.LoadSAE.validate_inputs("sae/kept.safetensors") is True
    assert scoring.LoadCLIPScorer.validate_inputs(scoring.BUILT_IN) is True
    folders.output_folder("there")
    assert recording.LoadActivations.validate_inputs("there") is True

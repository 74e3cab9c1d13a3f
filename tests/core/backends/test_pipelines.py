from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionImg2ImgPipeline, UNet2DModel
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.backends.pipelines import fingerprint
from hapax.core.errors import HapaxError

NAMES = ["sd1", "sdxl", "sd3", "flux"]


@pytest.fixture
def saved(tiny_pipelines, tmp_path):
    """Save a tiny pipeline, as float32 safetensors unless told otherwise."""

    def save(name="sd1", **options):
        tiny_pipelines.build(name).save_pretrained(tmp_path / name, **options)
        return tmp_path / name

    return save


def draw(backend):
    options = {"max_sequence_length": 16} if hasattr(backend.pipeline, "transformer") else {}
    return backend.sample("a doctor", [1], steps=2, height=32, width=32, output="pt", **options)


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_folder_is_the_saved_pipeline(tiny_pipelines, saved, name):
    built, loaded = DiffusersBackend(tiny_pipelines.build(name)), DiffusersBackend.from_folder(saved(name))
    assert torch.equal(draw(loaded), draw(built))
    assert loaded.fingerprint() == built.fingerprint()
    assert loaded.sites == built.sites


def test_dtype_is_set(saved):
    assert DiffusersBackend.from_folder(saved(), dtype=torch.bfloat16).denoiser.dtype == torch.bfloat16


def test_a_folder_of_fp16_files_only_is_found(saved):
    backend = DiffusersBackend.from_folder(saved(variant="fp16"))
    assert draw(backend).shape == (1, 3, 32, 32)


@pytest.fixture
def broken(saved, tmp_path):
    """Make folders that can't be used; each gives the folder and what its refusal says."""

    def empty():
        (tmp_path / "empty").mkdir()
        return tmp_path / "empty", "has no model_index.json"

    def unconditional():
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
        )
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
        return tmp_path / "ddpm", "DDPMPipeline is not a text-to-image pipeline: it takes no prompt"

    def named(name, sentence):
        folder = saved()
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
        return folder, sentence

    def no_json():
        folder = saved()
        (folder / "model_index.json").write_text("{")
        return folder, "names no pipeline class"

    def pickled():
        return saved(safe_serialization=False), r"can't be loaded .*\.safetensors"

    def incomplete():
        folder = saved()
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        return folder, "can't be loaded"

    return {
        "missing": lambda: (tmp_path / "nowhere", "is not a folder"),
        "empty": empty,
        "unconditional": unconditional,
        "img2img": lambda: named("StableDiffusionImg2ImgPipeline", "it needs an input image"),
        "unknown": lambda: named("FuturePipeline", "a 'FuturePipeline', which diffusers .* lacks"),
        "own code": lambda: named(["my_code", "Mine"], "names code of its own"),
        "no class": lambda: named(None, "names no pipeline class"),
        "no json": no_json,
        "pickled": pickled,
        "incomplete": incomplete,
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "empty",
        "unconditional",
        "img2img",
        "unknown",
        "own code",
        "no class",
        "no json",
        "pickled",
        "incomplete",
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(broken, case):
    folder, sentence = broken[case]()
    with pytest.raises(HapaxError, match=f"(?s){sentence}"):
        DiffusersBackend.from_folder(folder)


def test_code_beside_a_component_is_not_run(saved, tmp_path):
    folder = saved()
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["evil", "Evil"]}))
    (folder / "unet" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(HapaxError, match="can't be loaded"):
        DiffusersBackend.from_folder(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pipeline_that_needs_a_picture_is_refused(tiny_pipelines):
    parts = tiny_pipelines.build("sd1").components
    with pytest.raises(HapaxError, match="needs an input image"):
        DiffusersBackend(StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False))


# Fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_counts(tiny_pipelines, name):
    backend = DiffusersBackend(tiny_pipelines.build(name))
    seen = {backend.fingerprint()}
    assert len(next(iter(seen))) == 64
    tensors = list(backend.denoiser.state_dict().values())
    for tensor in (tensors[0], tensors[len(tensors) // 2], tensors[-1]):
        tensor.view(-1)[-1] += 0.5
        seen.add(backend.fingerprint())
    assert len(seen) == 4


def test_dtype_and_config_count(tiny_pipelines):
    unet = tiny_pipelines.build("sd1").unet
    prints = {fingerprint(unet), fingerprint(tiny_pipelines.build("sd1").unet.to(torch.bfloat16))}
    unet.register_to_config(flip_sin_to_cos=False)
    prints.add(fingerprint(unet))
    assert len(prints) == 3


def test_a_default_spelt_out_does_not_count(tiny_pipelines):
    """A later diffusers may know more options; at their defaults they leave the model what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = tiny_pipelines.unet()
        torch.manual_seed(0)
        spelt = tiny_pipelines.unet(flip_sin_to_cos=True, dropout=0.0)
    assert fingerprint(plain) == fingerprint(spelt)

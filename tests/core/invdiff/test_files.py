from __future__ import annotations

import errno
import os

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.errors import HapaxError
from hapax.core.invdiff.files import check_fits, load_guidance, save_guidance
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.core.steering import Scope
from safetensors.torch import load_file, save_file

SHAPE = GuidanceShape("mid", channels=16, context=16, hidden=8)


@pytest.fixture
def module():
    module = GuidanceModule(SHAPE, scope=Scope(0.1, 0.8), seed=3)
    module.meta = {"model": "abc", "training": {"steps": 5}}
    return module


def test_weights_window_and_provenance_come_back(module, tmp_path):
    save_guidance(module, tmp_path / "folder" / "g.safetensors", meta={"note": "demo"})
    found = load_guidance(tmp_path / "folder" / "g.safetensors")
    assert found.shape == SHAPE
    assert (found.scope.start, found.scope.end, found.strength) == (0.1, 0.8, 1.0)
    assert found.meta == {**module.meta, "note": "demo"}
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name])
    assert not any(p.requires_grad for p in found.parameters())


def change_header(path, **changes):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = {**file.metadata(), **changes}
    save_file(load_file(path), path, header)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "hapax.sae"}, "is not a guidance module"),
        ({"version": "2"}, "format version 2"),
        ({"shape": "{}"}, "damaged header"),
        ({"shape": "[1"}, "damaged header"),
        ({"window": "[0.5, 0.1]"}, "damaged header"),
        ({"shape": '{"site": "mid", "channels": 999999999, "context": 9, "hidden": 99999}'}, "its header says"),
    ],
)
def test_a_file_that_is_not_one_is_refused(module, tmp_path, changes, words):
    path = tmp_path / "g.safetensors"
    save_guidance(module, path)
    change_header(path, **changes)
    with pytest.raises(HapaxError, match=words):
        load_guidance(path)


def test_cut_off_or_missing_files_are_refused(module, tmp_path):
    path = tmp_path / "g.safetensors"
    with pytest.raises(HapaxError, match="no file"):
        load_guidance(path)
    save_guidance(module, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HapaxError, match="damaged"):
        load_guidance(path)


def test_weights_that_are_not_finite_are_refused(module, tmp_path):
    with torch.no_grad():
        module.last.bias.fill_(torch.inf)
    save_guidance(module, tmp_path / "g.safetensors")
    with pytest.raises(HapaxError, match="NaN or infinity"):
        load_guidance(tmp_path / "g.safetensors")


def test_a_full_disk_leaves_the_old_file(module, tmp_path, monkeypatch):
    path = tmp_path / "g.safetensors"
    save_guidance(module, path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HapaxError, match="no space left"):
        save_guidance(module, path, meta={"other": 1})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]


def test_a_module_of_another_model_is_refused(module, tiny_pipelines):
    backend = DiffusersBackend(tiny_pipelines.sd1())
    with pytest.raises(HapaxError, match="was made for model abc, but here it is"):
        check_fits(module, backend)
    module.meta["model"] = backend.fingerprint()
    check_fits(module, backend)
    # ComfyUI knows the same weights by another fingerprint.
    module.meta |= {"model": "abc", "architecture": "SD15", "versions": {"comfyui": "0.33.0"}}
    check_fits(module, backend)
    wide = GuidanceModule(GuidanceShape("mid", channels=32, context=16, hidden=8))
    with pytest.raises(HapaxError, match="fits 32 channels at mid, but this model has 16"):
        check_fits(wide, backend)

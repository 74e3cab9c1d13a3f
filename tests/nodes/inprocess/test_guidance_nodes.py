"""Applying, saving and loading guidance on the tiny models, as a server runs it."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from guiding import apply, trained_module
from hapax.core.errors import HapaxError
from hapax.core.invdiff.module import GuidanceModule
from hapax.core.steering import Scope
from hapax.nodes import folders
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.guidance import LoadInvDiffGuidance, SaveInvDiffGuidance

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


class TestApplying:
    def test_strength_zero_and_an_untrained_module_change_nothing(self, any_subject):
        subject = any_subject
        base = subject.sample(rows=2)
        module = trained_module(subject)
        assert torch.equal(subject.sample(apply(subject, module, 0.0), rows=2), base)
        assert not torch.equal(subject.sample(apply(subject, module), rows=2), base)
        with torch.inference_mode(False):
            new = GuidanceModule(module.shape).requires_grad_(False)
        assert torch.equal(subject.sample(apply(subject, new), rows=2), base)

    def test_it_is_the_module_at_its_site(self, sd15):
        module, seen = trained_module(sd15), []
        model = add_tap(apply(sd15, module, 0.5), "mid", lambda h, step: seen.append(h.clone()))
        given = []
        plain = add_tap(sd15.model, "mid", lambda h, step: given.append((h.clone(), step)))
        sd15.sample(plain, steps=1)
        sd15.sample(model, steps=1)
        h, step = given[0]
        torch.testing.assert_close(seen[0], module.tap(0.5, Scope())(h, step))

    def test_window_and_rows(self, sd15):
        module, base = trained_module(sd15), sd15.sample()
        changed = [
            sd15.sample(apply(sd15, module, start=start, end=end, rows=rows))
            for start, end, rows in ((0.0, 0.4, "positive"), (0.4, 1.0, "positive"), (0.0, 1.0, "negative"))
        ]
        for i, one in enumerate(changed):
            assert not torch.equal(one, base)
            assert all(not torch.equal(one, other) for other in changed[:i])
        late = trained_module(sd15, scope=Scope(0.5, 1.0))
        early = apply(sd15, late, start=0.0, end=0.6)
        assert torch.equal(sd15.sample(early), sd15.sample(apply(sd15, late, start=0.5, end=0.6)))

    def test_two_strengths_of_one_module_do_not_meet(self, sd15):
        module = trained_module(sd15)
        half, full = apply(sd15, module, 0.5), apply(sd15, module, 1.0)
        first = sd15.sample(half)
        sd15.sample(full)
        assert torch.equal(sd15.sample(half), first)

    @pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
    def test_any_sampler(self, sd15, sampler):
        module = trained_module(sd15)
        out = sd15.sample(apply(sd15, module, 0.01), sampler=sampler)
        assert torch.isfinite(out).all()
        assert not torch.equal(out, sd15.sample(sampler=sampler))

    def test_it_composes_with_steering_and_with_a_mask(self, sd15):
        module, base = trained_module(sd15), sd15.sample()
        pushed = add_tap(sd15.model, "mid", lambda h, step: h + 1)
        both = sd15.sample(apply(sd15, module, model=pushed))
        assert not torch.equal(both, sd15.sample(pushed))
        assert not torch.equal(both, sd15.sample(apply(sd15, module)))
        assert torch.equal(sd15.sample(apply(sd15, module, mask=torch.zeros(1, 8, 8))), base)

    def test_it_composes_with_a_lora(self, sd15):
        module, name = trained_module(sd15), "diffusion_model.middle_block.0.in_layers.2.weight"
        weight = sd15.model.model.state_dict()[name]
        lora = sd15.model.clone()
        lora.add_patches({name: ("diff", (torch.ones_like(weight),))}, 0.5)
        both = sd15.sample(apply(sd15, module, model=lora))
        assert not torch.equal(both, sd15.sample(lora))
        assert not torch.equal(both, sd15.sample(apply(sd15, module)))

    def test_comfyui_counts_and_moves_its_weights(self, sd15):
        module = trained_module(sd15)
        model = apply(sd15, module)
        for each in (model, model.clone()):
            held = [patcher.model for patchers in each.additional_models.values() for patcher in patchers]
            assert held == [module]
        sd15.sample(model)
        assert any(loaded.model.model is module for loaded in comfy.model_management.current_loaded_models)

    def test_save_and_load(self, sd15, tiny_models):
        module = trained_module(sd15, scope=Scope(0.1, 0.9))
        saved = SaveInvDiffGuidance.execute(module, "mine", True).result[0]
        assert saved == "guidance/mine.safetensors"
        assert saved in folders.model_files("guidance")
        loaded, info = LoadInvDiffGuidance.execute(saved, False).result
        assert info.startswith("guidance at mid, 128 channels, ")
        assert torch.equal(sd15.sample(apply(sd15, loaded)), sd15.sample(apply(sd15, module)))
        other = type(sd15)(**{**vars(sd15), "model": tiny_models.build_model("sd15", seed=1)})
        with pytest.raises(HapaxError, match="The guidance module was made for model"):
            apply(other, loaded)
        free = LoadInvDiffGuidance.execute(saved, True).result[0]
        assert not torch.equal(other.sample(apply(other, free)), other.sample())
        gone = "guidance/gone.safetensors"
        assert LoadInvDiffGuidance.fingerprint_inputs(saved) != LoadInvDiffGuidance.fingerprint_inputs(gone)


class TestBadInput:
    def test_of_applying(self, sd15, sdxl, flux):
        module = trained_module(sd15, scope=Scope(0.0, 0.3))
        with pytest.raises(HapaxError, match=r"was trained for 0 to 0\.3 of the denoising"):
            apply(sd15, module, start=0.5)
        with pytest.raises(HapaxError, match="give a start that is not after the end"):
            apply(sd15, module, start=0.5, end=0.1)
        with pytest.raises(HapaxError, match="made for architecture TinySD15, but here it is TinySDXL"):
            apply(sdxl, module)
        with pytest.raises(HapaxError, match="can't act at eps of Flux"):
            apply(flux, trained_module(flux, "eps"))
        with pytest.raises(HapaxError, match="There is no file"):
            LoadInvDiffGuidance.execute("../elsewhere.safetensors", False)

    def test_a_full_disk_leaves_nothing_half_written(self, sd15, monkeypatch, base_directory):
        def full(*args, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(HapaxError, match="no space left"):
            SaveInvDiffGuidance.execute(trained_module(sd15), "never", False)
        monkeypatch.undo()
        folder = base_directory / "models" / "hapax" / "guidance"
        assert not [path for path in folder.glob("*never*")]

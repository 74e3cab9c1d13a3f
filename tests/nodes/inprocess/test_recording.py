"""Harvest, Capture and Collect: what they record, that it resumes, and that ComfyUI's caches can't spoil it."""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import pytest
import torch
from comfy.cli_args import args
from hapax.core.activations import ActivationStore
from hapax.core.errors import HapaxError
from hapax.core.steering import AddDirection
from hapax.nodes import capture, recording, sampling
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.schema import to_pictures

import nodes as comfy_nodes

WIDGETS = {
    "count": 5,
    "first_seed": 10,
    "steps": 3,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
    "batch_size": 2,
    "prompt": "a photo of a doctor",
    "site": "auto",
    "record_steps": 2,
    "positions": 64,
}


class Scorer:
    """Not a CLIP, but as exact: a picture's embedding is its mean colour."""

    fingerprint = "mean colour"

    def images(self, pictures):
        colours = [torch.tensor(list(picture.resize((1, 1)).tobytes())).float() for picture in pictures]
        return torch.stack(colours) / 255


@pytest.fixture
def harvest(sd15, vae, run):
    def call(**changed):
        given = {"model": sd15.model, "positive": sd15.positive, "negative": sd15.negative, "vae": vae, "run": run}
        return recording.HarvestActivations.execute(**(WIDGETS | given | changed)).result

    return call


def test_a_harvest_records_what_a_ksampler_with_those_seeds_does(harvest, sd15, vae):
    store, sheet, text = harvest(scorer=Scorer(), batch_size=1)
    assert [sample.seed for sample in store.samples] == [10, 11, 12, 13, 14]
    assert {sample.caption for sample in store.samples} == {"a photo of a doctor"}
    assert store.tokens().shape == (5, 2, 4, 128)
    assert store.embeddings().shape == (5, 3)
    assert store.thumbnails().shape == (5, 64, 64, 3)
    assert sheet.shape == (1, 64, 320, 3)
    assert text.startswith("5 pictures (5 new) at mid of TinySD15: 2 steps, 4 places, 128 channels; in output/hapax/")

    heard = {}

    def tap(h, step):
        heard[round(float(step.progress[-1]), 4)] = h[step.cond].clone()

    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    (sampled,) = comfy_nodes.common_ksampler(
        add_tap(sd15.model, "mid", tap), 12, 3, 2.0, "euler", "normal", sd15.positive, sd15.negative, latent
    )
    picture = to_pictures(vae.decode(sampled["samples"]))[0]
    assert bytes(store.thumbnails([2]).flatten().tolist()) == picture.tobytes()
    for index, at in enumerate(store.steps.tolist()):
        expected = heard[round(at, 4)][0].flatten(1).T
        found = store.tokens([2], [index])[0, 0].float()
        assert torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def test_a_picture_is_the_same_in_any_batch_and_with_samplers_that_draw_noise(harvest, run):
    for sampler in ("euler", "dpmpp_sde", "euler_ancestral"):
        together, *_ = harvest(sampler_name=sampler, batch_size=5)
        alone, *_ = harvest(sampler_name=sampler, batch_size=1, run=run + "-alone")
        later, *_ = harvest(sampler_name=sampler, first_seed=13, count=1, run=run + "-later")
        near = together.thumbnails().int() - alone.thumbnails().int()
        assert int(near.abs().max()) <= 2
        assert int((together.thumbnails([3]).int() - later.thumbnails().int()).abs().max()) <= 2


def test_more_pictures_are_added_and_fewer_are_those_asked_for(harvest):
    harvest(count=3)
    store, _, text = harvest(count=5)
    assert text.startswith("5 pictures (2 new)")
    store, _, text = harvest(count=2)
    assert text.startswith("2 pictures (0 new)")
    assert [sample.seed for sample in store.samples] == [10, 11]
    assert store.tokens().shape[0] == 2


@pytest.mark.parametrize("changed", [{"cfg": 3.0}, {"steps": 4}, {"record_steps": 1}, {"positions": 2}, {"width": 128}])
def test_other_settings_get_a_folder_of_their_own(harvest, changed):
    one, two = harvest(count=1)[0], harvest(count=1, **changed)[0]
    assert one.folder != two.folder
    assert len(two) == 1


def test_another_prompt_or_lora_gets_a_folder_of_its_own(harvest, sd15, tiny_models):
    folders = {harvest(count=1)[0].folder, harvest(count=1, positive=tiny_models.conditioning(8))[0].folder}
    lora = sd15.model.clone()
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    lora.add_patches({key: ("diff", (torch.ones_like(sd15.model.model.state_dict()[key]) / 50,))}, 0.7)
    folders.add(harvest(count=1, model=lora)[0].folder)
    again = harvest(count=1)[0]
    assert len(folders) == 3
    assert again.folder in folders
    assert again.provenance["model"] == ActivationStore.open(next(iter(folders))).provenance["model"]


def test_a_steered_model_is_not_taken_for_the_plain_one(harvest, sd15):
    """The same prompt, seeds and run's name: what was recorded without the push must not be handed out for it."""

    def pushed(strength):
        vector = torch.randn(128, generator=torch.Generator().manual_seed(5))
        return add_tap(sd15.model, "mid", AddDirection(vector, strength=strength))

    plain, *_ = harvest(count=2)
    steered, _, text = harvest(count=2, model=pushed(20.0))
    assert text.startswith("2 pictures (2 new)")
    assert steered.folder != plain.folder
    assert not torch.equal(steered.tokens(), plain.tokens())
    assert harvest(count=3, model=pushed(20.0))[2].startswith("3 pictures (1 new)")
    assert harvest(count=2, model=pushed(10.0))[2].startswith("2 pictures (2 new)")


def interrupt_at(monkeypatch, when):
    """Press the stop button at a picture's preview."""
    calls = []
    plain = sampling._preview

    def preview(model, report):
        callback = plain(model, report)

        def counted(*args):
            calls.append(args[0])
            if len(calls) == when:
                comfy.model_management.interrupt_current_processing(True)
            callback(*args)

        return counted

    monkeypatch.setattr(sampling, "_preview", preview)


@pytest.mark.parametrize("when", [1, 5, 8])
def test_an_interrupted_harvest_resumes_without_loss_or_doubles(harvest, run, monkeypatch, base_directory, when):
    whole, *_ = harvest(run=run + "-whole")
    with monkeypatch.context() as patched:
        interrupt_at(patched, when)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            harvest()
    recordings = (base_directory / "output" / "hapax").iterdir()
    (folder,) = (path for path in recordings if path.name.rpartition("-")[0] == run)
    kept = len(ActivationStore.open(folder))
    assert kept == (when - 1) // 3 * 2
    store, _, text = harvest()
    assert text.startswith(f"5 pictures ({5 - kept} new)")
    assert torch.equal(store.tokens(), whole.tokens())
    assert torch.equal(store.thumbnails(), whole.thumbnails())
    assert not comfy.model_management.processing_interrupted()


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_all_families_are_harvested(subject, tiny_models, run, family):
    tiny = subject(family)
    given = {"model": tiny.model, "positive": tiny.positive, "negative": tiny.negative, "run": run}
    given["vae"] = tiny_models.build_vae(latent_channels=tiny.latent_channels)
    store, *_ = recording.HarvestActivations.execute(**(WIDGETS | given | {"count": 2})).result
    assert store.provenance["site"] == {"sdxl": "mid", "sd3": "double.1", "flux": "double.1"}[family]
    assert store.tokens().shape == (2, 2, 4 if family == "sdxl" else 16, tiny.site_channels)
    assert torch.isfinite(store.tokens().float()).all()


@pytest.mark.usefixtures("as_the_server_runs")
def test_a_harvest_runs_as_on_a_server(harvest):
    store, *_ = harvest(count=3, scorer=Scorer())
    assert len(store) == 3
    assert store.tokens().float().std() > 0


@pytest.fixture
def shown(monkeypatch):
    """What the server would send to the browser: (done, total, preview) of each report."""
    seen = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, preview, **_: seen.append((done, total, preview))
    )
    return seen


def test_finished_pictures_are_shown_as_the_harvest_goes(harvest, shown):
    """Without previews of its own, which is ComfyUI's default."""
    store, *_ = harvest()
    assert {total for _, total, _ in shown} == {15}
    assert [done for done, _, _ in shown] == sorted(done for done, _, _ in shown)
    pictures = [(done, preview) for done, _, preview in shown if preview is not None]
    assert [done for done, _ in pictures] == [6, 12, 15]
    for (_, (kind, picture, most)), first in zip(pictures, (0, 2, 4), strict=True):
        assert (kind, most) == ("JPEG", 512)
        assert picture.tobytes() == bytes(store.thumbnails([first]).flatten().tolist())


def test_each_step_is_previewed_where_previews_are_on(harvest, shown, monkeypatch):
    monkeypatch.setattr(args, "preview_method", latent_preview.LatentPreviewMethod.Auto)
    harvest()
    assert [done for done, _, _ in shown] == [2, 4, 6, 6, 8, 10, 12, 12, 13, 14, 15, 15]
    assert all(preview is not None for _, _, preview in shown)
    # A cell of the latent is a pixel.
    assert [preview[1].size for _, _, preview in shown[:4]] == [(8, 8)] * 3 + [(64, 64)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"site": "double.3"}, "There is no site 'double.3' in this denoiser; it has mid, eps"),
        ({"width": 0}, "0 x 64 pixels is less than this VAE's 8 x 8"),
        ({"run": "../elsewhere"}, "is not a file or folder name inside hapax"),
        ({"run": "/etc/passwd"}, "is not a file or folder name inside hapax"),
    ],
)
def test_what_cannot_be_is_said(harvest, changed, message):
    with pytest.raises(HapaxError, match=message):
        harvest(**changed)


def test_a_recording_is_opened_again(harvest):
    store, *_ = harvest(count=3)
    found, _, text = recording.LoadActivations.execute(store.folder.name).result
    assert torch.equal(found.tokens(), store.tokens())
    assert text.startswith("3 pictures (0 new)")
    before = recording.LoadActivations.fingerprint_inputs(store.folder.name)
    harvest(count=4)
    assert recording.LoadActivations.fingerprint_inputs(store.folder.name) != before
    with pytest.raises(HapaxError, match="There is no recording 'nowhere'"):
        recording.LoadActivations.execute("nowhere")


# Capture and Collect


@pytest.fixture
def captured(sd15):
    node = {"site": "auto", "record_steps": 2, "positions": 64}
    return capture.Capture.execute(sd15.model, **node).result


@pytest.fixture
def collect(vae, run):
    def call(handle, latents, **changed):
        given = {"run": run, "prompt": "mine", "vae": vae} | changed
        return capture.Collect.execute(handle, {"samples": latents}, **given).result

    return call


def test_capture_changes_no_picture_and_collect_keeps_what_was_heard(sd15, captured, collect, harvest):
    model, handle = captured
    latents = sd15.sample(model, seed=10, steps=3, cfg=2.0)
    assert torch.equal(latents, sd15.sample(seed=10, steps=3, cfg=2.0))
    store, _, text = collect(handle, latents)
    assert text.startswith("1 pictures (1 new) at mid")
    harvested, *_ = harvest(count=1)
    assert torch.equal(store.tokens(), harvested.tokens())
    assert torch.equal(store.thumbnails(), harvested.thumbnails())
    assert store.samples[0].seed == 10


def test_runs_of_many_seeds_gather_in_one_recording(sd15, captured, collect):
    model, handle = captured
    for seed in (1, 2, 3):
        store, _, text = collect(handle, sd15.sample(model, seed=seed, rows=2))
    assert text.startswith("6 pictures (2 new)")
    assert len({sample.seed for sample in store.samples}) == 6


def test_a_cached_sampler_or_a_second_one_is_no_trap(sd15, captured, collect, run):
    """ComfyUI runs only what changed: Collect may run again alone, or after another sampler ran."""
    model, handle = captured
    first, second = sd15.sample(model, seed=1), sd15.sample(model, seed=2)
    assert [sample.seed for sample in collect(handle, first)[0].samples] == [1]
    assert [sample.seed for sample in collect(handle, first, run=run + "-again")[0].samples] == [1]
    assert [sample.seed for sample in collect(handle, second, run=run + "-second")[0].samples] == [2]
    assert collect(handle, first)[2].startswith("1 pictures (0 new)")


def test_a_run_from_a_picture_is_told_from_one_from_nothing(sd15, captured, collect):
    model, handle = captured
    for start in (torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)):
        latents = comfy.sample.sample(
            model,
            torch.randn(1, 4, 8, 8),
            3,
            2.0,
            "euler",
            "normal",
            sd15.positive,
            sd15.negative,
            start,
            seed=4,
            disable_pbar=True,
        )
        store, *_ = collect(handle, latents)
    assert len(store) == 2


def test_another_prompt_is_not_mixed_in(sd15, captured, collect, tiny_models):
    model, handle = captured
    one, *_ = collect(handle, sd15.sample(model))
    two, *_ = collect(handle, sd15.sample(model, positive=tiny_models.conditioning(9)))
    assert one.folder != two.folder


def test_an_interrupted_run_leaves_nothing_half_recorded(sd15, captured, collect):
    model, handle = captured

    def stop(h, step):
        comfy.model_management.interrupt_current_processing(True)
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sd15.sample(add_tap(model, "mid", stop))
    assert not handle.runs
    assert len(collect(handle, sd15.sample(model))[0]) == 1


def test_what_capture_remembers_is_bounded(sd15, captured):
    model, handle = captured
    for seed in range(12):
        sd15.sample(model, seed=seed, steps=1)
    assert len(handle.runs) == 8


def test_collect_says_what_is_wrong(sd15, captured, collect, vae):
    model, handle = captured
    latents = sd15.sample(model, rows=2)
    with pytest.raises(HapaxError, match="This latent is not one that was sampled with the captured model"):
        collect(handle, sd15.sample(seed=99))
    with pytest.raises(HapaxError, match="neither a VAE nor an image"):
        collect(handle, latents, vae=None)
    with pytest.raises(HapaxError, match="There are 1 images for 2 latents"):
        collect(handle, latents, vae=None, image=vae.decode(latents)[:1])
    assert len(collect(handle, latents, vae=None, image=vae.decode(latents))[0]) == 2


def test_clones_of_a_captured_model_record_into_the_same_handle(sd15, captured, collect):
    model, handle = captured
    assert len(collect(handle, sd15.sample(model.clone().clone()))[0]) == 1

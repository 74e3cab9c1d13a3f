"""Train, save, load, describe and use an autoencoder."""

from __future__ import annotations

import json

import planted as truth
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sae import export_saelens
from hapax.core.taps import Recorder
from hapax.nodes import folders
from hapax.nodes.autoencoder import LoadSAE, SAEInfo, SaveSAE, TrainSAE
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.encoding import EncodeWithSAE
from hapax.nodes.probing import probe, sigma_at

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


def encode(subject, sae, **changed):
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    wired = dict(model=subject.model, positive=subject.positive, sae=sae, latent={"samples": latent}, seed=4)
    return EncodeWithSAE.execute(**{**wired, **changed}).result


@pytest.fixture(scope="module")
def sae(planted):
    with torch.inference_mode():
        return TrainSAE.execute(planted, 256, 2, 0, 8, 64).result[0]


def test_training_under_inference_mode_gives_an_sae_that_takes_gradients(sae, planted):
    assert (sae.d_in, sae.d_sae, sae.prefix_sizes, sae.k) == (128, 256, (64, 256), 8)
    assert sae.meta["metrics"]["fvu"][-1] < 0.6
    assert sae.meta["model"] == planted.provenance["model"]
    assert not any(parameter.is_inference() for parameter in sae.parameters())
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.randn(3, 128, requires_grad=True)
        sae(x).sum().backward()
        assert x.grad is not None


def test_training_repeats(sae, planted):
    again = TrainSAE.execute(planted, 256, 2, 0, 8, 64).result[0]
    assert torch.equal(again.W_dec, sae.W_dec)


def test_save_and_load_bring_it_back(sae):
    saved = SaveSAE.execute(sae, "styles/mine", False).result[0]
    assert saved in folders.model_files("sae")
    loaded = LoadSAE.execute(saved, "", 0, False).result[0]
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), sae.state_dict().values(), strict=True))
    assert loaded.meta == json.loads(json.dumps(sae.meta))
    assert "model" not in LoadSAE.execute(saved, "", 0, True).result[0].meta
    assert LoadSAE.fingerprint_inputs(sae_name=saved) != ""


def test_a_file_is_replaced_only_when_asked(sae):
    first = SaveSAE.execute(sae, "twice", False).result[0]
    assert SaveSAE.execute(sae, "twice", False).result[0] != first
    assert SaveSAE.execute(sae, "twice", True).result[0] == first


@pytest.mark.parametrize("name", ["../escape", "", "a//b", "/etc/passwd"])
def test_no_name_leads_out_of_the_folder(sae, name):
    with pytest.raises(HapaxError, match="is not a file or folder name inside"):
        SaveSAE.execute(sae, name, True)


def test_a_missing_file_is_refused_in_a_sentence():
    with pytest.raises(HapaxError, match=r"There is no file 'sae/none.safetensors' in ComfyUI's models/hapax"):
        LoadSAE.execute("sae/none.safetensors", "", 0, False)


def test_a_saelens_folder_loads(sae, base_directory):
    folder = base_directory / "models" / "hapax" / "sae" / "lens"
    export_saelens(sae, folder)
    name = next(each for each in folders.model_files("sae") if "lens" in each)
    loaded = LoadSAE.execute(name, "mid", 0, False).result[0]
    assert loaded.meta["site"] == "mid"
    x = torch.randn(5, 128)
    torch.testing.assert_close(loaded.encode(x), sae.encode(x))


def test_info_says_what_it_is(sae):
    text, latents, channels = SAEInfo.execute(sae).result
    assert (latents, channels) == (256, 128)
    assert "reads at mid" in text
    assert "unexplained" in text


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_a_probe_reaches_each_noise_level_once(subject, family):
    one = subject(family)
    seen = []
    model = add_tap(one.model, one.site, lambda h, step: seen.append((float(step.progress[0]), bool(step.cond.all()))))
    latent = torch.randn(1, one.latent_channels, 8, 8)
    probe(model, one.positive, latent, [0.2, 0.5, 1.0], 0, lambda done: None)
    assert [cond for _, cond in seen] == [True] * 3
    torch.testing.assert_close([p for p, _ in seen], [0.2, 0.5, 1.0], atol=2e-3, rtol=0)
    sampling = one.model.get_model_object("model_sampling")
    assert sigma_at(sampling, 0.2) > sigma_at(sampling, 0.8) > 0


def test_a_probe_noises_as_a_sampler_does(sd15):
    """From pure noise: the probe's first call is a sampler's first call."""
    ours, theirs = Recorder([0.0]), Recorder([0.0])
    empty = torch.zeros(1, 4, 8, 8)
    probe(add_tap(sd15.model, "mid", ours), sd15.positive, empty, [0.0], 1, lambda done: None)
    sd15.sample(add_tap(sd15.model, "mid", theirs), seed=1, cfg=1.0, steps=4)
    # The sampler starts from sqrt(1 + sigma^2), the probe from sigma: 1 in 400 at sigma 14.6.
    a, b = ours.take(0)[0], theirs.take(0)[0]
    assert float((a - b).norm() / b.norm()) < 1e-2


def test_encode_lists_what_the_autoencoder_says(sd15, sae):
    sheet, mask, table = encode(sd15, sae)
    assert sheet.shape[0] == 1
    assert mask.shape == (2, 64, 64)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    assert table.splitlines()[0].split() == ["feature", "there", "latent", "activation"]
    assert all(torch.equal(a, b) for a, b in zip(encode(sd15, sae)[:2], (sheet, mask), strict=True))


def test_encode_looks_at_the_picture_through_the_vae(sd15, sae, vae):
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    sheet, mask, _ = encode(sd15, sae, latent=None, image=picture, vae=vae)
    again = encode(sd15, sae, latent={"samples": vae.encode(picture)}, vae=vae)
    torch.testing.assert_close(mask, again[1])
    assert sheet.shape[0] == 1


def test_the_mask_has_the_pictures_size(sd15, sae, vae):
    picture = torch.rand(1, 320, 384, 3, generator=torch.Generator().manual_seed(1))
    assert encode(sd15, sae, latent=None, image=picture, vae=vae)[1].shape == (1, 320, 384)


def test_encode_knows_features_by_name(sd15, findings):
    features, _, _, sae = findings
    _, mask, table = encode(sd15, sae, features=features, feature="1")
    assert features.features[0].name in table
    assert mask.shape == (2, 64, 64)
    with pytest.raises(HapaxError, match="'nothing' is not among the active features"):
        encode(sd15, sae, features=features, feature="nothing")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"noise_levels": "early"}, "noise_levels is 'early'"),
        ({"noise_levels": "0.5, 1.5"}, "noise_levels is '0.5, 1.5'; give numbers from 0 to 1"),
        ({"latent": None}, "Wire either an image and the VAE, or a latent"),
    ],
)
def test_encode_refuses_what_it_cannot_use(sd15, sae, changed, said):
    with pytest.raises(HapaxError, match=said):
        encode(sd15, sae, **changed)


def test_encode_refuses_another_model(subject, sae):
    other = subject("sd3")
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(HapaxError, match="made for architecture TinySD15, but here it is SD3; use the model"):
        encode(other, sae, latent=latent)


def test_encode_refuses_features_of_another_autoencoder(sd15, sae, findings):
    with pytest.raises(HapaxError, match="found with another autoencoder"):
        encode(sd15, sae, features=findings[0])


def test_an_interrupt_ends_a_probe(sd15, sae):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        encode(sd15, sae)


def test_too_few_pictures_are_refused(tmp_path, scorer, tiny_models, monkeypatch):
    monkeypatch.setattr(truth, "PICTURES", 3)
    store = truth.record(tmp_path / "few", tiny_models.build_model("sd15"), scorer)
    with pytest.raises(HapaxError, match="at least 128 are needed"):
        TrainSAE.execute(store, 0, 1, 0, 8, 0)

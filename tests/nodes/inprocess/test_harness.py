"""The tiny models sample, are deterministic, and differ by prompt: what the other tests here take for granted."""

from __future__ import annotations

import folder_paths
import pytest
import torch


def test_samples_are_finite_and_repeat(any_subject):
    first = any_subject.sample(rows=2)
    assert first.shape == (2, any_subject.latent_channels, 8, 8)
    assert torch.isfinite(first).all()
    assert torch.equal(first, any_subject.sample(rows=2))


def test_samples_follow_the_prompt_and_the_seed(any_subject, tiny_models):
    base = any_subject.sample()
    guidance = 3.5 if any_subject.family == "flux" else None
    assert not torch.allclose(base, any_subject.sample(positive=tiny_models.conditioning(9, guidance)))
    assert not torch.allclose(base, any_subject.sample(seed=2))


def test_equal_seeds_give_equal_weights(tiny_models, sd15):
    again = tiny_models.build_model("sd15")
    for key, value in sd15.model.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_clip_and_vae_make_a_picture(clip, vae, sd15):
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a red fox"))
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    assert not torch.allclose(positive[0][0], negative[0][0])
    picture = vae.decode(sd15.sample(positive=positive, negative=negative))
    assert picture.shape == (1, 64, 64, 3)
    assert vae.encode(picture).shape == (1, 4, 8, 8)


def test_folders_are_the_temporary_ones(base_directory):
    assert folder_paths.models_dir == str(base_directory / "models")
    assert folder_paths.get_output_directory() == str(base_directory / "output")


@pytest.mark.usefixtures("as_the_server_runs")
def test_server_fixture_makes_inference_tensors():
    assert torch.zeros(1).is_inference()

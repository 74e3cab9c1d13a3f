from __future__ import annotations

import numpy as np
import pytest
import torch
from hapax.core.backends.autoencoder import encode
from hapax.core.backends.denoiser import Conditioned
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.collect import Sampling
from hapax.core.errors import HapaxError
from hapax.core.invdiff.data import PictureSet, decode, make_pictures, read_pictures
from hapax.core.invdiff.probes import Probes, probe_losses
from PIL import Image

FAST = Sampling(steps=2, guidance=1.0, batch_size=2)


@pytest.fixture(scope="module", params=["sd1", "sdxl", "sd3", "flux"])
def any_backend(request, tiny_pipelines):
    return DiffusersBackend(getattr(tiny_pipelines, request.param)())


@pytest.fixture(scope="module")
def backend(tiny_pipelines):
    return DiffusersBackend(tiny_pipelines.sd1())


def folder_of(tmp_path, names=("a", "b", "c"), captions=("a cat", "a dog", "a cat")):
    for number, (name, caption) in enumerate(zip(names, captions, strict=True)):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40, 60, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption)
    return tmp_path


def test_made_pictures_are_those_of_the_sampler(backend):
    made = make_pictures(backend, ["a cat", "a dog"], [5, 6, 7], FAST)
    assert made.ids == ("0:5", "0:6", "0:7", "1:5", "1:6", "1:7")
    assert made.prompt.tolist() == [0, 0, 0, 1, 1, 1]
    alone = backend.sample("a dog", [6], steps=2, guidance=1.0, output="latent")
    torch.testing.assert_close(made.latents[4:5], alone, rtol=1e-4, atol=1e-5)


def test_making_pictures_goes_on_where_it_stopped(backend, tmp_path):
    def stop(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pictures(backend, ["a cat"], range(7), FAST, folder=tmp_path, progress=stop)
    assert len(list(tmp_path.iterdir())) == 2
    seen: list[int] = []
    made = make_pictures(
        backend, ["a cat"], range(7), FAST, folder=tmp_path, progress=lambda _, done, total: seen.append(done)
    )
    assert seen == [6, 7]
    torch.testing.assert_close(made.latents, make_pictures(backend, ["a cat"], range(7), FAST).latents)
    with pytest.raises(HapaxError, match="another sampler"):
        make_pictures(backend, ["a cat"], range(7), Sampling(3, 1.0), folder=tmp_path)


def test_latents_and_pictures_of_any_architecture_fit_its_denoiser(any_backend):
    made = make_pictures(any_backend, ["a cat"], [1, 2], FAST)
    conditioned = Conditioned(any_backend, made.prompts)
    assert made.latents.shape[1:] == conditioned.shape
    picture = next(iter(decode(any_backend, made)))
    sampled = FAST.pictures(any_backend, "a cat", [1, 2])[0]
    assert np.abs(np.asarray(picture, float) - np.asarray(sampled, float)).max() <= 2
    pixels = torch.zeros(1, 3, picture.height, picture.width)
    assert encode(any_backend, pixels).shape[1:] == conditioned.shape


def test_probing_any_architecture_is_the_sampler_s_own_call(any_backend):
    """A probe at the first step's time, on pure noise, predicts what the pipeline's first call does."""
    held = {}

    def keep(h, step):
        held.setdefault("first", (h.clone(), step.x.clone(), step.timestep.clone()))

    any_backend.sample("a cat", [3], {"eps": keep}, steps=2, guidance=1.0, output="latent")
    out, x, timestep = held["first"]
    conditioned = Conditioned(any_backend, ["a dog", "a cat"], guidance=1.0)
    found = conditioned.predict(x, timestep, torch.tensor([1]))
    torch.testing.assert_close(found, out.float(), rtol=1e-4, atol=1e-5)


def test_probe_losses_are_the_error_of_the_clean_picture(backend):
    made = make_pictures(backend, ["a cat", "a dog"], [1, 2], FAST)
    probes = Probes((0.4,), noises=1, by_channel=False, seed=2)
    found = probe_losses(backend, made, probes, batch_size=3)
    noise = torch.randn(made.latents.shape[1:], generator=torch.Generator().manual_seed(20_000))
    conditioned = Conditioned(backend, made.prompts)
    timestep = conditioned.schedule.timestep(torch.full((4,), 0.4))
    a, b = (s.view(-1, 1, 1, 1) for s in conditioned.schedule.scales(timestep))
    x = a * made.latents + b * noise
    with torch.inference_mode():
        epsilon = conditioned.predict(x, timestep, made.prompt)
    clean = (x - b * epsilon) / a
    torch.testing.assert_close(found[:, 0], (clean - made.latents).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-6)
    split = probe_losses(backend, made, Probes((0.4,), noises=1, seed=2))
    assert split.shape == (4, made.latents.shape[1])
    torch.testing.assert_close(split.mean(1), found[:, 0])


def test_a_folder_in_kohyas_layout(backend, tmp_path):
    found = read_pictures(backend, folder_of(tmp_path, ("2_cats/a", "2_cats/b", "dogs/c")))
    assert found.prompts == ("a cat", "a dog")
    assert found.ids == ("2_cats/a.png",) * 2 + ("2_cats/b.png",) * 2 + ("dogs/c.png",)
    assert found.prompt.tolist() == [0, 0, 1, 1, 0]
    assert found.latents.shape == (5, 4, 16, 16)
    assert torch.equal(found.latents[0], found.latents[1])


@pytest.mark.parametrize(
    ("names", "captions", "words"),
    [
        (("a", "b"), ("a cat", None), "has no caption"),
        (("a", "b"), ("a cat", "  "), "has no caption"),
        ((), (), "holds no pictures"),
        (("a",), ("a cat",), "groups need at least two"),
    ],
)
def test_folders_that_will_not_do_are_refused(backend, tmp_path, names, captions, words):
    with pytest.raises(HapaxError, match=words):
        read_pictures(backend, folder_of(tmp_path, names, captions))


def test_a_file_that_is_no_picture_is_named(backend, tmp_path):
    folder_of(tmp_path)
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(HapaxError, match=r"b.png can't be read as a picture"):
        read_pictures(backend, tmp_path)


def test_no_such_folder(backend, tmp_path):
    with pytest.raises(HapaxError, match="is not a folder"):
        read_pictures(backend, tmp_path / "none")


def test_latents_that_are_not_finite_are_refused():
    with pytest.raises(HapaxError, match="not finite"):
        PictureSet(torch.full((2, 4, 4, 4), torch.nan), torch.zeros(2, dtype=torch.long), ("a",), ("x", "y"))

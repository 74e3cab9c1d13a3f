"""Pictures to train on and the denoiser that looks at them, on the tiny models, as a server runs them."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from guiding import SAMPLING, infer, latents_of, train
from hapax.core.errors import HapaxError
from hapax.nodes import denoising
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.denoising import call_denoiser
from hapax.nodes.training_set import SampleTrainingSet, read_set

import nodes as comfy_nodes

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


class TestTrainingSets:
    def test_pictures_are_those_of_the_sampler(self, sd15, clip):
        given = {"model": sd15.model, "clip": clip, "prompts": "a cat\na dog\na cat"}
        latents, words = SampleTrainingSet.execute(**given, **SAMPLING).result
        assert [tuple(each["samples"].shape) for each in latents] == [(3, 4, 8, 8)] * 2
        text = clip.encode_from_tokens_scheduled(clip.tokenize("a dog"))
        noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(12))[None]
        alone = denoising.comfy.sample.sample(
            sd15.model, noise, 2, 1.0, "euler", "normal", text, text, torch.zeros(1, 4, 8, 8), seed=12
        )
        torch.testing.assert_close(latents[1]["samples"][2:], alone.cpu(), rtol=1e-3, atol=1e-3)
        pictures, prompts = read_set(sd15.model, latents, words)
        assert pictures.prompts == ("a cat", "a dog")
        assert pictures.prompt.tolist() == [0, 0, 0, 1, 1, 1]
        assert len(prompts) == 2
        torch.testing.assert_close(
            pictures.latents[:3], sd15.model.model.process_latent_in(latents[0]["samples"]), rtol=0, atol=0
        )

    def test_an_interrupted_set_goes_on(self, sd15, clip, run, monkeypatch, base_directory):
        given = {"model": sd15.model, "clip": clip, "prompts": "a cat"}
        whole = SampleTrainingSet.execute(**given, **SAMPLING | {"seeds": 6, "run": run + "-whole"}).result[0]
        real, calls = denoising.comfy.sample.sample, []

        def counted(*args, **options):
            calls.append(1)
            if len(calls) == 3:
                comfy.model_management.interrupt_current_processing(True)
            return real(*args, **options)

        monkeypatch.setattr(denoising.comfy.sample, "sample", counted)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            SampleTrainingSet.execute(**given, **SAMPLING | {"seeds": 6, "run": run})
        monkeypatch.setattr(denoising.comfy.sample, "sample", real)
        again = SampleTrainingSet.execute(**given, **SAMPLING | {"seeds": 6, "run": run}).result[0]
        assert torch.equal(again[0]["samples"], whole[0]["samples"])
        (folder,) = (
            path for path in (base_directory / "output" / "hapax").iterdir() if path.name.rpartition("-")[0] == run
        )
        assert len(list(folder.iterdir())) == 3

    def test_one_prompt_may_serve_many_latents(self, sd15, tiny_models):
        single = [{"samples": each[None]} for each in latents_of(sd15, tiny_models)[0]["samples"]]
        pictures, prompts = read_set(sd15.model, single, [sd15.positive])
        assert (len(pictures), len(prompts), pictures.prompts) == (6, 1, ("prompt 1",))
        pictures, prompts = read_set(sd15.model, single, [sd15.positive, sd15.negative] * 3)
        assert pictures.prompt.tolist() == [0, 1, 0, 1, 0, 1]

    def test_lists_of_comfyui_s_own_dataset_nodes_are_taken(self, sd15, clip, vae, run, comfyui_version):
        images = [torch.full((1, 64, 64, 3), value) for value in (0.0, 0.3, 0.6, 1.0)]
        texts = ["a cat", "a dog", "a cat", "a dog"]
        if comfyui_version >= (0, 33):
            from comfy_extras.nodes_dataset import MakeTrainingDataset

            latents, words = MakeTrainingDataset.execute(images, [vae], [clip], texts).result
        else:
            # Which has no such node; its users wire these.
            latents = [comfy_nodes.VAEEncode().encode(vae, each)[0] for each in images]
            words = [comfy_nodes.CLIPTextEncode().encode(clip, each)[0] for each in texts]
        pictures, prompts = read_set(sd15.model, latents, words)
        assert pictures.prompt.tolist() == [0, 1, 0, 1]
        assert len(prompts) == 2
        found = infer(sd15, vae, latents, words)[0]
        module = train(sd15, found, run, steps=2)[0]
        assert module.meta["pictures"] == 4


class TestTheDenoiser:
    """That probing and training call what the samplers call."""

    @pytest.mark.parametrize("progress", [0.1, 0.5, 0.9])
    def test_a_call_is_the_sampler_s(self, any_subject, progress):
        seen, subject = [], any_subject
        shape = (subject.latent_channels, 8, 8)
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

        def body(made):
            timestep = made.schedule.timestep(torch.full((2,), progress))
            tap = {subject.site: lambda h, step: seen.append((h.clone(), step))}
            return made.predict(x, timestep, torch.tensor([1, 0]), tap), timestep, made.schedule, made.sites

        words = [subject.positive, subject.negative]
        found, timestep, schedule, sites = call_denoiser(
            subject.model, ("a", "b"), words, shape, 2, body, site=subject.site
        )
        a, _ = schedule.scales(timestep)
        noisy = x if schedule.log_sigmas is None else x / a.view(-1, 1, 1, 1)
        recorded = []
        tapped = add_tap(subject.model, subject.site, lambda h, step: recorded.append((h.clone(), step)))
        for row, prompt in enumerate([subject.negative, subject.positive]):
            clean = one_call(tapped, noisy[row : row + 1], schedule.sigma(timestep)[:1], prompt)
            expected = schedule.target(x[row : row + 1], clean, timestep[:1])
            torch.testing.assert_close(
                found[row : row + 1], expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max())
            )
            (h, step), (other, label) = seen[0], recorded[row]
            torch.testing.assert_close(h[row : row + 1], other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
            assert float(step.progress[row]) == pytest.approx(float(label.progress[0]), abs=1e-6)
            assert float(step.progress[row]) == pytest.approx(progress, abs=2e-3)
            assert torch.equal(step.context[row], label.context[0])
            assert bool(step.cond[row])
        assert subject.site in sites

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"area": (4, 4, 0, 0)}, "A prompt has area set"),
            ({"start_percent": 0.5}, "A prompt has start and end percent set"),
            (None, "is a combination of 2"),
        ],
    )
    def test_prompts_that_are_more_than_prompts_are_refused(self, sd15, changed, said):
        text, options = sd15.positive[0]
        given = sd15.positive * 2 if changed is None else [[text, {**options, **changed}]]
        with pytest.raises(HapaxError, match=said):
            call_denoiser(sd15.model, ("a",), [given], (4, 8, 8), 1, lambda made: None)

    def test_prompts_of_other_sizes_are_refused(self, sd15):
        text, options = sd15.positive[0]
        other = [[text[..., :32], options]]
        with pytest.raises(HapaxError, match="The prompts differ in size"):
            call_denoiser(sd15.model, ("a", "b"), [sd15.positive, other], (4, 8, 8), 1, lambda made: None)


def one_call(model, noisy, sigma, prompt):
    """What a sampler gets for x at a sigma: ComfyUI's own sampling function, without guidance."""
    kept = []

    class Once(denoising.comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image, *rest, **more):
            kept.append(model_wrap(noisy, sigma, **extra_args))
            return latent_image

    latent = torch.zeros_like(noisy)
    denoising.comfy.sample.sample_custom(
        model, latent, 1.0, Once(), torch.ones(1), prompt, prompt, latent, disable_pbar=True, seed=0
    )
    return kept[0]


def test_lists_are_declared_as_comfyui_wants_them():
    made = SampleTrainingSet.define_schema()
    assert [each.is_output_list for each in made.outputs] == [True, True]

"""Sampling training sets, groups, training and applying guidance on the tiny models, as a server runs them."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.core.steering import Scope
from hapax.nodes import bias_groups, denoising, folders, guidance_training, schema
from hapax.nodes.bias_groups import CLIP, LOSSES, InferBiasGroups
from hapax.nodes.comfy_sites import site_of
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.denoising import call_denoiser
from hapax.nodes.fitting import identity
from hapax.nodes.guidance import ApplyInvDiffGuidance, LoadInvDiffGuidance, SaveInvDiffGuidance
from hapax.nodes.guidance_training import TrainInvDiffGuidance
from hapax.nodes.training_set import SampleTrainingSet, read_set

import nodes as comfy_nodes

pytestmark = pytest.mark.usefixtures("as_the_server_runs")

SAMPLING = {
    "seeds": 3,
    "first_seed": 10,
    "steps": 2,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 64,
    "height": 64,
    "batch_size": 2,
    "run": "set",
}
TRAINING = {
    "steps": 3,
    "batch_size": 4,
    "accumulation": 1,
    "learning_rate": 1e-2,
    "seed": 1,
    "site": "auto",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "variance_weight": 0.0,
    "risk": "variance",
}


def latents_of(subject, tiny_models, count=6, seed=3):
    """Pictures in the VAE's scale, such that the denoiser's is about 1."""
    noise = tiny_models.noise_like(subject.latent(count), seed)
    return [{"samples": subject.model.model.process_latent_out(noise)}]


def infer(subject, vae, latents, conditioning=None, **changed):
    given = {"groups": 2, "by": LOSSES, "seed": 0, "shown": 2, "batch_size": 4} | changed
    lists = {name: [value] for name, value in given.items()}
    conditioning = [subject.positive] if conditioning is None else conditioning
    return InferBiasGroups.execute([subject.model], [vae], latents, conditioning, **lists).result


class FakeVAE:
    """Decodes latents of any number of channels, which the tiny VAE can't: their first three as colours."""

    def decode(self, latents):
        return latents[:, :3].movedim(1, -1).sigmoid()


@pytest.fixture
def groups(sd15, vae, tiny_models):
    return infer(sd15, vae, latents_of(sd15, tiny_models))[0]


def train(subject, groups, run, **changed):
    return TrainInvDiffGuidance.execute(subject.model, groups, run=run, **TRAINING | changed).result


def trained_module(subject, site="auto", seed=0, **options):
    """A module that changes something, made for a subject."""
    with torch.inference_mode(False), torch.no_grad():
        chosen = site_of(subject.model, site)
        module = GuidanceModule(GuidanceShape(str(chosen), chosen.channels, 64, hidden=8), seed=seed, **options)
        module.last.weight.normal_(generator=torch.Generator().manual_seed(seed))
        module.requires_grad_(False)
    module.meta = identity(subject.model)
    return module


def apply(subject, module, strength=1.0, start=0.0, end=1.0, rows="positive", mask=None, model=None):
    model = subject.model if model is None else model
    return ApplyInvDiffGuidance.execute(model, module, strength, start, end, rows, mask).result[0]


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


class TestGroups:
    def test_sheets_say_what_the_groups_are(self, sd15, vae, tiny_models):
        found, sheets, table = infer(sd15, vae, latents_of(sd15, tiny_models))
        assert found.weights.shape == (6, 2)
        torch.testing.assert_close(found.weights.sum(1), torch.ones(6))
        assert float(found.probabilities.sum()) == pytest.approx(1.0)
        assert len(sheets) == 1
        assert sheets[0].ndim == 4
        assert "prompt 1: 6 pictures in " in table
        assert "times as often" in table
        again = infer(sd15, vae, latents_of(sd15, tiny_models))[0]
        assert torch.equal(again.weights, found.weights)

    def test_each_prompt_of_many_pictures_has_a_sheet(self, sd15, vae, tiny_models):
        latents = [*latents_of(sd15, tiny_models, 32), *latents_of(sd15, tiny_models, 33, seed=4)]
        words = [[[each[0][0], {**each[0][1], "hapax_prompt": said}]] for each, said in
                 ((sd15.positive, "a cat"), (sd15.negative, "a dog"))]  # fmt: skip
        _, sheets, table = infer(sd15, vae, latents, words, batch_size=33)
        assert len(sheets) == 2
        assert "a cat: 32 pictures in " in table
        assert "a dog: 33 pictures in " in table

    def test_clip_groups_pictures_by_their_looks(self, sd15, tiny_models, scorer):
        vae = FakeVAE()
        latents = latents_of(sd15, tiny_models)
        latents[0]["samples"][:3] = 9.0
        found = infer(sd15, vae, latents, by=CLIP, scorer=scorer)[0]
        main = found.weights.argmax(1)
        assert len(main[:3].unique()) == 1
        assert int(main[0]) not in main[3:].tolist()
        assert found.by == CLIP


class TestTraining:
    @pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
    def test_every_family_is_trained_and_stays_as_it_was(self, subject, tiny_models, run, family):
        tiny = subject(family)
        before, base = identity(tiny.model), tiny.sample()
        wanted = [p.requires_grad for p in tiny.model.model.diffusion_model.parameters()]
        found = infer(tiny, FakeVAE(), latents_of(tiny, tiny_models))[0]
        module, plot, info = train(tiny, found, run)
        assert float(module.last.weight.abs().max()) > 0
        assert identity(tiny.model) == before
        assert [p.requires_grad for p in tiny.model.model.diffusion_model.parameters()] == wanted
        assert all(p.grad is None for p in tiny.model.model.diffusion_model.parameters())
        assert torch.equal(tiny.sample(), base)
        assert not torch.equal(tiny.sample(apply(tiny, module)), base)
        assert module.meta["model"] == before["model"]
        assert "comfyui" in module.meta["versions"]
        assert "trained for 3 steps on 6 pictures" in info
        assert plot.ndim == 4

    def test_weights_that_a_server_loaded_can_be_trained_through(self, tiny_models, vae, run, sd15):
        # Built in inference mode, as loaders build them.
        built = tiny_models.build_model("sd15", seed=5)
        for each in built.model.diffusion_model.modules():
            for name, weight in each._parameters.items():
                if weight is not None:
                    each._parameters[name] = torch.nn.Parameter(weight.clone(), requires_grad=False)
        assert next(built.model.diffusion_model.parameters()).is_inference()
        served = type(sd15)(**{**vars(sd15), "model": built})
        before = {name: weight.clone() for name, weight in built.model.diffusion_model.state_dict().items()}
        found = infer(served, vae, latents_of(served, tiny_models))[0]
        module = train(served, found, run)[0]
        assert float(module.last.weight.abs().max()) > 0
        after = built.model.diffusion_model.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in before.items())

    def test_what_is_learnt_lowers_the_loss(self, sd15, groups, run, monkeypatch):
        told = {}
        for rate in (1e-7, 5e-3):
            seen = told.setdefault(rate, [])
            monkeypatch.setattr(
                guidance_training.LossPlot, "add", lambda self, step, loss, seen=seen: seen.append(loss)
            )
            train(sd15, groups, run, steps=30, batch_size=8, learning_rate=rate)
        # The same pictures, times and noises, so that nothing but the weights differs.
        assert told[5e-3][0] == told[1e-7][0]
        assert sum(told[5e-3][15:]) < sum(told[1e-7][15:])

    def test_progress_shows_the_curve(self, sd15, groups, run, monkeypatch):
        seen = []
        monkeypatch.setattr(
            schema.comfy.utils.ProgressBar,
            "update_absolute",
            lambda self, value, total, preview=None: seen.append((value, total, preview)),
        )
        train(sd15, groups, run)
        assert [each[:2] for each in seen] == [(1, 3), (2, 3), (3, 3)]
        assert all(preview[0] == "JPEG" and preview[1].width == 960 for _, _, preview in seen)

    def test_an_interrupted_training_goes_on_to_the_same_weights(self, sd15, groups, run, monkeypatch):
        whole = train(sd15, groups, run + "-whole")[0]
        real = guidance_training.progress

        def stopping(total):
            report = real(total)

            def told(done, picture=None):
                if done == 2:
                    comfy.model_management.interrupt_current_processing(True)
                report(done, picture)

            return told

        monkeypatch.setattr(guidance_training, "progress", stopping)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            train(sd15, groups, run)
        steps = []
        monkeypatch.setattr(guidance_training, "progress", lambda total: lambda done, picture=None: steps.append(done))
        again = train(sd15, groups, run)[0]
        assert steps == [3]
        assert all(torch.equal(again.state_dict()[name], each) for name, each in whole.state_dict().items())

    def test_options_reach_the_training(self, sd15, groups, run):
        module = train(
            sd15, groups, run, variance_weight=1.0, risk="worst", accumulation=2, start_percent=0.1, end_percent=0.6
        )[0]
        kept = module.meta["training"]
        assert (kept["variance_weight"], kept["risk"], kept["accumulation"], kept["seats"]) == (1.0, "worst", 2, 2)
        assert (module.scope.start, module.scope.end) == (0.1, 0.6)


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
    @pytest.mark.parametrize(
        ("what", "said"),
        [
            ("no prompt", "No prompt is given"),
            ("one picture", "There is 1 picture; groups need at least two"),
            ("prompts missing", "There are 3 latents and 2 prompts"),
            ("other channels", "The latents have 16 channels, but this model's have 4"),
            ("other sizes", "give pictures of one size"),
            ("not finite", "Some latents are not finite"),
            ("no scorer", "Groups by clip need a CLIP scorer"),
        ],
    )
    def test_of_pictures_and_groups(self, sd15, clip, vae, tiny_models, what, said):
        latents = latents_of(sd15, tiny_models)
        single = [{"samples": latents[0]["samples"][:1]}]
        odd = [*latents, {"samples": torch.zeros(1, 4, 4, 4)}]
        broken = [{"samples": latents[0]["samples"] * torch.nan}]
        acts = {
            "no prompt": lambda: SampleTrainingSet.execute(sd15.model, clip, " \n", **SAMPLING),
            "one picture": lambda: infer(sd15, vae, single),
            "prompts missing": lambda: infer(sd15, vae, single * 3, [sd15.positive] * 2),
            "other channels": lambda: infer(sd15, vae, [{"samples": torch.zeros(2, 16, 8, 8)}]),
            "other sizes": lambda: infer(sd15, vae, odd),
            "not finite": lambda: infer(sd15, vae, broken),
            "no scorer": lambda: infer(sd15, vae, latents, by=CLIP),
        }
        with pytest.raises(HapaxError, match=said):
            acts[what]()

    def test_of_training(self, sd15, groups, run, tiny_models, base_directory):
        for changed, said in (
            ({"site": "double.3"}, "There is no site 'double.3'"),
            ({"start_percent": 0.8, "end_percent": 0.2}, "The window is 0.8 to 0.2"),
            ({"learning_rate": 1e30, "steps": 40}, "not finite at step"),
        ):
            with pytest.raises(HapaxError, match=said):
                train(sd15, groups, run, **changed)
        with pytest.raises(HapaxError, match="is not a file or folder name inside hapax"):
            train(sd15, groups, "../elsewhere")
        other = type(sd15)(**{**vars(sd15), "model": tiny_models.build_model("sd15", seed=1)})
        with pytest.raises(HapaxError, match="The groups were inferred for model"):
            train(other, groups, run)

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

    def test_a_full_disk_leaves_nothing_half_written(self, sd15, groups, run, monkeypatch, base_directory):
        def full(*args, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(HapaxError, match="no space left"):
            SaveInvDiffGuidance.execute(trained_module(sd15), "never", False)
        monkeypatch.undo()
        folder = base_directory / "models" / "hapax" / "guidance"
        assert not [path for path in folder.glob("*never*")]


def test_lists_are_declared_as_comfyui_wants_them():
    made = SampleTrainingSet.define_schema()
    assert [each.is_output_list for each in made.outputs] == [True, True]
    assert InferBiasGroups.define_schema().is_input_list
    assert bias_groups.InferBiasGroups.define_schema().outputs[1].is_output_list

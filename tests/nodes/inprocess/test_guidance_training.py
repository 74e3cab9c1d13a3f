"""Training guidance on the tiny models, as a server runs it."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from guiding import FakeVAE, apply, infer, latents_of, train
from hapax.core.errors import HapaxError
from hapax.nodes import guidance_training, schema
from hapax.nodes.fitting import identity

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


@pytest.fixture
def groups(sd15, vae, tiny_models):
    return infer(sd15, vae, latents_of(sd15, tiny_models))[0]


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

    def test_a_module_is_gone_on_with(self, sd15, groups, run):
        first = train(sd15, groups, run, site="eps")[0]
        assert first.shape.site == "eps"
        still = train(sd15, groups, run, steps=1, learning_rate=1e-12, guidance=first)[0]
        new = train(sd15, groups, run, steps=1, learning_rate=1e-12, site="eps")[0]
        assert still.shape == first.shape
        for name, weight in first.state_dict().items():
            torch.testing.assert_close(still.state_dict()[name], weight)
        assert not torch.allclose(new.last.weight, first.last.weight)

    def test_a_module_to_go_on_with_must_fit(self, sd15, groups, run, tiny_models):
        other = type(sd15)(**{**vars(sd15), "model": tiny_models.build_model("sd15", seed=1)})
        foreign = train(other, infer(other, FakeVAE(), latents_of(other, tiny_models))[0], run)[0]
        with pytest.raises(HapaxError, match="The guidance module to go on with was made for model"):
            train(sd15, groups, run, guidance=foreign)
        with pytest.raises(HapaxError, match="go on at its site and width"):
            train(sd15, groups, run, site="eps", guidance=train(sd15, groups, run)[0])

    def test_bad_input_is_one_sentence(self, sd15, groups, run, tiny_models, base_directory):
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

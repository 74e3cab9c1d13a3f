"""Asymmetric steering through ComfyUI's samplers, against a sampler that is written from the definition alone."""

from __future__ import annotations

from itertools import pairwise

import comfy.controlnet
import comfy.sample
import comfy.samplers
import pytest
import torch
from hapax.core.direction import Direction
from hapax.core.errors import HapaxError
from hapax.core.steering import AddDirection, Scope
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.directions import ApplyDirection
from hapax.nodes.steering import AmplifyFeaturesAdvanced

pytestmark = pytest.mark.usefixtures("as_the_server_runs")
STRENGTH = 3.0


class ByDefinition(comfy.samplers.Sampler):
    """x' = a' P + s' D: picture P of the steered model, noise D of the plain one; a is 1 - s of a flow, else 1."""

    def __init__(self, edit):
        self.edit, self.on = edit, False

    def tap(self, h, step):
        return self.edit(h, step) if self.on else None

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        sampling = model_wrap.inner_model.model_sampling
        flow = not hasattr(sampling, "log_sigmas")
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas))
        for s, s_next in pairwise(sigmas):
            self.on = True
            picture = model_wrap(x, s.expand(len(x)), **extra_args)
            self.on = False
            plain = model_wrap(x, s.expand(len(x)), **extra_args)
            a, a_next = (1 - s, 1 - s_next) if flow else (1, 1)
            x = a_next * picture + s_next * (x - a * plain) / s
        return sampling.inverse_noise_scaling(sigmas[-1], x)


class Control(comfy.controlnet.ControlBase):
    """A ControlNet that adds the same to the middle block's output in each call."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        return {"input": [], "middle": [torch.full((len(x_noisy), 128, 2, 2), 20.0)], "output": []}


def vector(subject):
    return torch.randn(subject.site_channels, generator=torch.Generator().manual_seed(5))


def by_definition(subject, tiny_models, *, cfg, positive=None, negative=None):
    made = direction(subject)
    sampler = ByDefinition(AddDirection(made.vector, scale=made.scale, strength=STRENGTH, scope=Scope(rows="both")))
    latent, model = subject.latent(2), add_tap(subject.model, subject.site, sampler.tap)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
    conds = positive or subject.positive, negative or subject.negative
    noise = tiny_models.noise_like(latent, 1)
    return comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, *conds, latent, disable_pbar=True, seed=1)


def direction(subject):
    return Direction(vector(subject), subject.site, 20.0)


def applied(subject, strength=STRENGTH, **changed):
    settings = dict(start_percent=0.0, end_percent=1.0, conditioning="both", norm_limit=0.0, asymmetric=True)
    return ApplyDirection.execute(subject.model, direction(subject), strength, **{**settings, **changed}).result[0]


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(("cfg", "sampler"), [(2.0, "euler"), (1.0, "ddim")])
def test_only_the_predicted_picture_is_steered(any_subject, tiny_models, cfg, sampler):
    found = any_subject.sample(applied(any_subject), rows=2, cfg=cfg, sampler=sampler)
    assert close(found, by_definition(any_subject, tiny_models, cfg=cfg))
    both = applied(any_subject, asymmetric=False)
    assert not close(found, any_subject.sample(both, rows=2, cfg=cfg, sampler=sampler))
    assert not close(found, any_subject.sample(rows=2, cfg=cfg, sampler=sampler))


def test_both_evaluations_have_what_a_controlnet_adds(sd15, tiny_models):
    positive, negative = (
        [[tensor, {**rest, "control": Control()}] for tensor, rest in conds] for conds in (sd15.positive, sd15.negative)
    )
    found = sd15.sample(applied(sd15), rows=2, cfg=2.0, positive=positive, negative=negative)
    assert close(found, by_definition(sd15, tiny_models, cfg=2.0, positive=positive, negative=negative))
    assert not close(found, sd15.sample(applied(sd15), rows=2, cfg=2.0))


def test_strength_zero_is_bit_equal(any_subject):
    base = any_subject.sample(rows=2)
    edit = AddDirection(vector(any_subject), strength=0.0, scope=Scope(asymmetric=True))
    assert torch.equal(any_subject.sample(add_tap(any_subject.model, any_subject.site, edit), rows=2), base)
    assert torch.equal(any_subject.sample(applied(any_subject, 0.0), rows=2), base)


def test_off_is_what_the_node_did_before(sd15):
    positional = ApplyDirection.execute(sd15.model, direction(sd15), STRENGTH, 0.0, 1.0, "both", 0.0).result[0]
    assert torch.equal(sd15.sample(positional), sd15.sample(applied(sd15, asymmetric=False)))


def test_only_steered_steps_are_evaluated_twice(sd15):
    calls = []
    handle = sd15.model.model.diffusion_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        sd15.sample(applied(sd15, end_percent=0.5), cfg=1.0)
    finally:
        handle.remove()
    assert len(calls) == 4 + 2


def test_features_can_be_turned_so_too(sd15, findings):
    def turned(asymmetric, strength=3.0):
        settings = dict(feature="1", mode="amplify", start_percent=0.0, end_percent=1.0, conditioning="both")
        settings |= dict(norm_limit=0.0, asymmetric=asymmetric, strength=strength)
        return sd15.sample(AmplifyFeaturesAdvanced.execute(sd15.model, findings[0], **settings).result[0])

    assert not torch.equal(turned(True), turned(False))
    assert torch.equal(turned(True, 0.0), sd15.sample())


@pytest.mark.parametrize(
    ("sampler", "named"), [("dpmpp_2m", "dpmpp_2m"), ("euler_ancestral", "euler_ancestral"), ("uni_pc", "unipc")]
)
def test_other_samplers_are_refused(sd15, sampler, named):
    with pytest.raises(HapaxError, match=rf"The sampler is {named}, whose steps .* choose euler or ddim"):
        sd15.sample(applied(sd15), sampler=sampler)
    churning = comfy.samplers.ksampler("euler", {"s_churn": 1.0})
    with pytest.raises(HapaxError, match="euler with s_churn"):
        comfy.sample.sample_custom(
            applied(sd15), sd15.latent(), 1.0, churning, torch.tensor([9.0, 3.0, 0.0]), sd15.positive, sd15.negative,
            sd15.latent(), disable_pbar=True, seed=1,
        )  # fmt: skip

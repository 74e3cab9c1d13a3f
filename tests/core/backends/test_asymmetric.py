"""Asymmetric edits in diffusers' samplers, against a loop that is written from the definition alone."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from hapax.core.asymmetric import Paths, mixed
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.backends.hooks import Rows
from hapax.core.errors import HapaxError
from hapax.core.steering import AddDirection, Scope

SITES = {"sd1": "mid", "sd1 v": "mid", "sdxl": "mid", "sd3": "double.1", "flux": "double.0"}
STEPS, STRENGTH = 4, 3.0


@pytest.fixture(scope="module")
def backends(tiny_pipelines):
    made = {name: DiffusersBackend(tiny_pipelines.build(name)) for name in ("sd1", "sdxl", "sd3", "flux")}
    made["sd1 v"] = velocity = DiffusersBackend(tiny_pipelines.build("sd1"))
    config = velocity.pipeline.scheduler.config
    velocity.pipeline.scheduler = DDIMScheduler.from_config(config, prediction_type="v_prediction")
    return made


def sample(backend, taps=None, *, steps=STEPS, guidance=1.0, **options):
    return backend.sample(
        "a cat", [3, 4], taps, steps=steps, guidance=guidance, output="latent", height=32, width=32, **options
    )


def direction(backend, site, *, strength=STRENGTH, seed=0, **scope):
    vector = torch.randn(backend.sites[site].channels, generator=torch.Generator().manual_seed(seed))
    return AddDirection(vector, strength=strength, scope=Scope(**scope))


@contextmanager
def calls_of(denoiser):
    """The arguments of each call."""
    calls = []
    handle = denoiser.register_forward_pre_hook(lambda module, *given: calls.append(given), with_kwargs=True)
    yield calls
    handle.remove()


@contextmanager
def pushed(denoiser, vectors, rows):
    """Vectors added to what a block returns of the picture, to the last rows."""
    unet = hasattr(denoiser, "mid_block")

    def push(module, args, output):
        h = (output if unet else output[1]).clone()
        for vector in vectors:
            h[-rows:] += vector[:, None, None] if unet else vector
        return h if unet else (output[0], h)

    block = denoiser.mid_block if unet else denoiser.transformer_blocks[pushed.block]
    handle = block.register_forward_hook(push)
    yield
    handle.remove()


def levels(scheduler):
    """Shares (a, b) of picture and noise before each step and after the last."""
    if isinstance(scheduler, DDIMScheduler):
        abar = [*scheduler.alphas_cumprod[scheduler.timesteps].double(), torch.tensor(1.0).double()]
        return [(each.sqrt(), (1 - each).sqrt()) for each in abar]
    sigmas = scheduler.sigmas.double()
    if type(scheduler).__name__.startswith("Flow"):
        return [(1 - sigma, sigma) for sigma in sigmas]
    return [(torch.tensor(1.0).double(), sigma) for sigma in sigmas]


def split(scheduler, x, output, a, b):
    """The picture and the noise that an output predicts."""
    if type(scheduler).__name__.startswith("Flow"):
        return x - b * output, x + a * output
    if scheduler.config.prediction_type == "v_prediction":
        return a * x - b * output, b * x + a * output
    return (x - b * output) / a, output


@torch.no_grad()
def by_definition(backend, asymmetric, symmetric=(), guidance=1.0):
    """x' = a' P + b' D step by step: P of the output with all vectors, D of that without the asymmetric ones."""
    denoiser, scheduler = backend.denoiser, backend.pipeline.scheduler
    with calls_of(denoiser) as calls:
        sample(backend, guidance=guidance)
    args, kwargs = calls[0]
    euler = type(scheduler).__name__ == "EulerDiscreteScheduler"
    along = levels(scheduler)
    first = args[0] if args else kwargs["hidden_states"]
    x = first[-2:].double() * ((along[0][1] ** 2 + 1).sqrt() if euler else 1)

    def output(call, b, vectors):
        given = (x / (b**2 + 1).sqrt() if euler else x).float().repeat(len(first) // 2, *[1] * (x.ndim - 1))
        with pushed(denoiser, vectors, rows=2):
            if args:
                out = denoiser(given, call[0][1], *args[2:], **kwargs)[0]
            else:
                out = denoiser(**(kwargs | {"hidden_states": given, "timestep": call[1]["timestep"]}))[0]
        bare, prompted = out[:2], out[-2:]
        return (bare + guidance * (prompted - bare) if len(out) == 4 else prompted).double()

    for call, ((a, b), (a_next, b_next)) in zip(calls, pairwise(along), strict=True):
        picture, _ = split(scheduler, x, output(call, b, [*symmetric, *asymmetric]), a, b)
        _, noise = split(scheduler, x, output(call, b, symmetric), a, b)
        x = a_next * picture + b_next * noise
    return x.float()


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "guidance"), [("sd1", 1.0), ("sd1", 4.0), ("sd1 v", 1.0), ("sdxl", 1.0), ("sd3", 4.0), ("flux", 1.0)]
)
def test_only_the_predicted_picture_is_steered(backends, name, guidance):
    backend, site = backends[name], SITES[name]
    tap = direction(backend, site, asymmetric=True)
    pushed.block = int(site[-1]) if site != "mid" else None
    found = sample(backend, {site: tap}, guidance=guidance)
    assert close(found, by_definition(backend, [tap.strength * tap.offset], guidance=guidance))
    both = sample(backend, {site: direction(backend, site)}, guidance=guidance)
    assert not close(found, both)
    assert not close(found, sample(backend, guidance=guidance))


def test_other_edits_act_on_both_paths(backends):
    backend = backends["sd1"]
    tap, other = direction(backend, "mid", asymmetric=True), direction(backend, "mid", seed=1)
    expected = by_definition(backend, [tap.strength * tap.offset], [other.strength * other.offset])
    assert close(sample(backend, {"mid": [other, tap]}), expected)


@pytest.mark.parametrize("name", SITES)
def test_strength_zero_is_bit_equal_and_costs_nothing(backends, name):
    backend, site = backends[name], SITES[name]
    with calls_of(backend.denoiser) as calls:
        found = sample(backend, {site: direction(backend, site, strength=0.0, asymmetric=True)})
    assert torch.equal(found, sample(backend))
    assert len(calls) == STEPS


def test_only_steered_steps_are_evaluated_twice(backends):
    backend = backends["sd1"]
    with calls_of(backend.denoiser) as calls:
        sample(backend, {"mid": direction(backend, "mid", end=0.5, asymmetric=True)})
    assert len(calls) == STEPS + STEPS // 2


def test_the_last_step_has_one_path(backends):
    """All noise is gone after it, so there is no direction back to it."""
    backend = backends["sdxl"]
    ends = [
        sample(backend, {"mid": direction(backend, "mid", asymmetric=asymmetric)}, steps=1)
        for asymmetric in (True, False)
    ]
    assert close(*ends)


def test_the_denoisers_own_output_can_be_steered_so(backends):
    backend = backends["sd1"]
    taps = [{"eps": direction(backend, "eps", asymmetric=asymmetric)} for asymmetric in (True, False)]
    one, other = (sample(backend, tap) for tap in taps)
    assert bool(torch.isfinite(one).all())
    assert not close(one, other)


def other_sampler(backend):
    backend.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(backend.pipeline.scheduler.config)


def clipping(backend):
    backend.pipeline.scheduler = DDIMScheduler.from_config(backend.pipeline.scheduler.config, clip_sample=True)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (other_sampler, {}, "The sampler is DPMSolverMultistepScheduler, whose steps"),
        (clipping, {}, "The sampler is DDIMScheduler with clip_sample, whose steps"),
        (lambda backend: None, {"eta": 0.5}, "The sampler is DDIMScheduler with eta, whose steps"),
    ],
)
def test_other_samplers_are_refused(tiny_pipelines, change, options, said):
    backend = DiffusersBackend(tiny_pipelines.build("sd1"))
    change(backend)
    with pytest.raises(HapaxError, match=said):
        sample(backend, {"mid": direction(backend, "mid", asymmetric=True)}, **options)
    assert not backend.denoiser._forward_hooks


def test_outside_of_a_sampler_it_is_refused(backends):
    backend = backends["sd1"]
    taps = {"mid": direction(backend, "mid", asymmetric=True)}
    with (
        pytest.raises(HapaxError, match="called without a sampler"),
        backend.tapped(taps, Rows.of([0], guided=False)),
    ):
        backend.denoiser(torch.randn(1, 4, 16, 16), 5, torch.randn(1, 7, 16), return_dict=False)


def test_rows_that_are_not_steered_stay_bit_equal():
    plain = torch.randn(2, 4, 3, 3, dtype=torch.bfloat16)
    steered = plain.clone()
    steered[1] += 1
    result = mixed(steered, plain, remaining=0.9)
    assert torch.equal(result[0], plain[0])
    assert torch.allclose(result[1], plain[1] + 10, rtol=0.05)
    assert result.dtype == torch.bfloat16


@pytest.mark.parametrize("remaining", [1.0, 1.5, -0.1, float("nan")])
def test_a_step_must_lower_the_noise(remaining):
    with pytest.raises(HapaxError, match="of the noise, so it has no asymmetric form"):
        mixed(torch.ones(1), torch.zeros(1), remaining)


def test_a_row_out_of_scope_needs_no_second_evaluation(make_step):
    h = torch.randn(2, 3, 5)
    tap, paths = AddDirection(torch.ones(5), scope=Scope(asymmetric=True, rows="uncond")), Paths()
    assert tap(h, replace(make_step(h), paths=paths)) is h
    assert not paths.steered

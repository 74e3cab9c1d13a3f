from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
)
from hapax.core.backends.noise import check_sampler, initial_noise, picture_size
from hapax.core.errors import HapaxError


@pytest.fixture(scope="module")
def pipelines(tiny_pipelines):
    return {name: tiny_pipelines.build(name) for name in tiny_pipelines.BUILDERS}


def denoiser_of(pipeline):
    return getattr(pipeline, "unet", None) or pipeline.transformer


@pytest.mark.parametrize(("name", "shape"), [("sd1", (4, 16, 24)), ("sd3", (4, 16, 24)), ("flux", (96, 16))])
def test_each_samples_noise_is_drawn_for_itself(pipelines, name, shape):
    def draw(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return initial_noise(pipelines[name], denoiser_of(pipelines[name]), generators, (32, 48))

    batch = draw(5, 6, 7)
    assert batch.shape == (3, *shape)
    for row, seed in zip(batch, (5, 6, 7), strict=True):
        assert torch.equal(row, draw(seed)[0])


def test_the_same_noise_is_drawn_for_a_model_of_lower_precision(tiny_pipelines):
    """Drawn in float32 and rounded; torch's own draws in bfloat16 would be other numbers."""
    full, low = tiny_pipelines.build("sd1"), tiny_pipelines.build("sd1").to(torch.bfloat16)
    draws = [
        initial_noise(pipeline, pipeline.unet, [torch.Generator().manual_seed(1)], (32, 32)) for pipeline in (full, low)
    ]
    assert torch.equal(draws[0].to(torch.bfloat16), draws[1])


@pytest.mark.parametrize(
    ("name", "own"), [("sd1", (32, 32)), ("sdxl", (32, 32)), ("sd3", (32, 32)), ("flux", (256, 256))]
)
def test_the_models_own_size_is_the_default(pipelines, name, own):
    denoiser = denoiser_of(pipelines[name])
    assert picture_size(pipelines[name], denoiser, None, None) == own
    assert picture_size(pipelines[name], denoiser, 64, None) == (64, own[1])


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("sd3", FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)),
        ("flux", FlowMatchLCMScheduler()),
        ("sd3", DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", use_flow_sigmas=True)),
    ],
)
def test_samplers_whose_pipeline_hands_on_no_generators_are_refused(tiny_pipelines, name, scheduler):
    pipeline = tiny_pipelines.build(name)
    check_sampler(pipeline)
    pipeline.scheduler = scheduler
    with pytest.raises(HapaxError, match="draws its noise for a whole batch at once"):
        check_sampler(pipeline)


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_a_sampler_with_one_noise_path_for_the_batch_is_refused(tiny_pipelines, name):
    """Known by name alone: diffusers has these classes only where torchsde is installed."""
    pipeline = tiny_pipelines.build("sd1")
    pipeline.scheduler = type(name, (DDIMScheduler,), {})()
    with pytest.raises(HapaxError, match=f"The sampler {name}"):
        check_sampler(pipeline)


def test_sde_samplers_run_where_generators_are_handed_on(tiny_pipelines):
    pipeline = tiny_pipelines.build("sd1")
    pipeline.scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    check_sampler(pipeline)

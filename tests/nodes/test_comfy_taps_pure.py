"""What of ComfyUI's taps can be told without a ComfyUI: labels, layouts, and that nothing of it is imported."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sites import Site
from hapax.nodes.comfy_eps import pack, unpack
from hapax.nodes.comfy_sites import grid_at, site_of, sites_of
from hapax.nodes.comfy_steps import row_labels, schedule_labels


def discrete(entries=1000):
    """The sigma table of Stable Diffusion, as ComfyUI's ModelSamplingDiscrete holds it."""
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    sigmas = ((1 - alphas) / alphas).sqrt()
    sigmas = sigmas[1000 // entries - 1 :: 1000 // entries]
    return SimpleNamespace(sigmas=sigmas.float(), log_sigmas=sigmas.log().float())


FLOW = SimpleNamespace(sigmas=torch.linspace(0.001, 1, 1000))


@pytest.mark.parametrize("name", ["hapax", "hapax.nodes.comfy_steps", "hapax.nodes.comfy_taps"])
def test_no_comfyui_is_needed(name):
    code = f"import sys, {name}; sys.exit(any(module.partition('.')[0].startswith('comfy') for module in sys.modules))"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_the_pack_offers_the_new_entry_point_only():
    import hapax

    assert callable(hapax.comfy_entrypoint)
    assert hapax.WEB_DIRECTORY == "./web"
    assert not hasattr(hapax, "NODE_CLASS_MAPPINGS"), "ComfyUI would ignore comfy_entrypoint"


def test_every_timestep_of_a_discrete_schedule_is_found_by_its_noise_level():
    sampling = discrete()
    sigma, timestep, progress = schedule_labels(sampling, sampling.sigmas)
    assert torch.equal(sigma, sampling.sigmas)
    assert torch.equal(timestep, torch.arange(1000).float())
    assert torch.allclose(progress, 1 - torch.arange(1000) / 999)


def test_noise_levels_off_the_table_are_clamped():
    _, timestep, progress = schedule_labels(discrete(), torch.tensor([1e9, 0.0, 1e-9]))
    assert timestep.tolist() == [999, 0, 0]
    assert progress.tolist() == [0, 1, 1]


def test_a_shorter_table_spans_the_same_progress():
    """A distilled model's table has 50 entries; its last is still pure noise."""
    short = discrete(50)
    _, _, progress = schedule_labels(short, short.sigmas)
    assert progress[0] == 1
    assert progress[-1] == 0
    assert torch.allclose(progress, torch.linspace(1, 0, 50), atol=1e-6)


def test_a_flows_time_is_its_noise_level():
    sigma, timestep, progress = schedule_labels(FLOW, torch.tensor([1.0, 0.75, 0.0]))
    assert timestep.tolist() == [1000, 750, 0]
    assert progress.tolist() == [0, 0.25, 1]
    assert sigma.tolist() == [1, 0.75, 0]


def test_labels_are_float32_on_the_cpu_whatever_the_model_computes_in():
    for labels in schedule_labels(discrete(), torch.tensor([1.0], dtype=torch.bfloat16)):
        assert labels.dtype == torch.float32
        assert labels.device.type == "cpu"
        assert labels.shape == (1,)


@pytest.mark.parametrize(
    ("rows", "options", "cond", "sample"),
    [
        (2, {"cond_or_uncond": [1, 0]}, [False, True], [0, 0]),
        (6, {"cond_or_uncond": [1, 0]}, [False] * 3 + [True] * 3, [0, 1, 2, 0, 1, 2]),
        (2, {"cond_or_uncond": [0]}, [True, True], [0, 1]),
        (2, {"cond_or_uncond": [1]}, [False, False], [0, 1]),
        (4, {"cond_or_uncond": [0, 0]}, [True] * 4, [0, 1, 0, 1]),
        (2, {}, [True, True], [0, 1]),
        # Ids say more than places: a guider may run the prompt third.
        (3, {"cond_or_uncond": [0, 1, 2], "uuids": "abc", "hapax_prompted": {"c"}}, [False, False, True], [0, 0, 0]),
        (1, {"cond_or_uncond": [0], "uuids": "a", "hapax_prompted": frozenset()}, [True], [0]),
    ],
)
def test_rows_are_labelled_by_their_conditionings(rows, options, cond, sample):
    found = row_labels(rows, options)
    assert found[0].tolist() == cond
    assert found[1].tolist() == sample


@pytest.mark.parametrize("size", [(8, 8), (4, 6), (7, 5), (1, 1)])
def test_packing_is_undone(size):
    latent = torch.randn(2, 16, *size)
    tokens = pack(latent)
    assert tokens.shape == (2, ((size[0] + 1) // 2) * ((size[1] + 1) // 2), 64)
    assert torch.equal(unpack(tokens, latent), latent)


def test_packing_is_that_of_flux():
    from diffusers import FluxPipeline

    latent = torch.randn(2, 16, 4, 6)
    assert torch.equal(pack(latent), FluxPipeline._pack_latents(latent, *latent.shape))


OUTPUT = Site("mid", "output", 4, "img")


def named(name, **attributes):
    """A stand-in for a denoiser of a class by that name; only its class and attributes are looked at."""
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=type(name, (), attributes)()))


@pytest.mark.parametrize(
    ("mult", "latent", "grid"),
    [((1, 2, 4, 4), (64, 64), (8, 8)), ((1, 2, 4), (128, 96), (32, 24)), ((1, 2, 4, 4), (65, 50), (9, 7))],
)
def test_the_middle_of_a_unet_halves_its_grid_at_each_level(mult, latent, grid):
    model = named("UNetModel", channel_mult=mult, model_channels=320, middle_block=object(), out_channels=4)
    assert grid_at(model, OUTPUT, *latent) == grid
    assert grid_at(model, Site("eps", "output", 4, "img"), *latent) == latent
    assert site_of(model, "mid").channels == 320 * mult[-1]


def test_a_unet_without_a_middle_has_no_such_site():
    model = named("UNetModel", channel_mult=(1, 2), model_channels=320, middle_block=None, out_channels=4)
    assert [site.name for site in sites_of(model)] == ["eps"]
    with pytest.raises(HapaxError, match="There is no site 'mid' in this denoiser; it has eps"):
        site_of(model, "auto")

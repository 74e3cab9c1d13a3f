"""Activations of given pictures: what a denoiser called by hand has on the same noised codes."""

from __future__ import annotations

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.directions import picture_activations
from hapax.core.directions.latents import read_latents
from hapax.core.errors import HapaxError
from PIL import Image

SITES = {"sd1": "mid", "sdxl": "mid", "sd3": "double.1", "flux": "single.0"}
PICTURES = [Image.new("RGB", (32, 32), colour) for colour in ("red", "teal", "white")]


def test_activations_are_those_of_the_noised_codes(tiny_pipelines) -> None:
    backend = DiffusersBackend(tiny_pipelines.build("sd1"))
    pipeline, scheduler = backend.pipeline, backend.pipeline.scheduler
    found = picture_activations(backend, PICTURES, seeds=[7, 8], progress=[0.25, 0.75], prompt="a cat", batch_size=4)
    assert found.shape == (3, 2, 2, 16)

    text, _ = pipeline.encode_prompt("a cat", torch.device("cpu"), 1, False)
    seen: list[torch.Tensor] = []
    handle = backend.denoiser.mid_block.register_forward_hook(lambda *call: seen.append(call[2].mean((2, 3))))
    pixels = pipeline.image_processor.preprocess(PICTURES[1])
    with torch.no_grad():
        code = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
        noise = torch.randn(code.shape[1:], generator=torch.Generator().manual_seed(8))[None]
        for progress in (0.25, 0.75):
            timestep = round((1 - progress) * 999)
            abar = scheduler.alphas_cumprod[timestep]
            backend.denoiser(abar.sqrt() * code + (1 - abar).sqrt() * noise, timestep, text)
    handle.remove()
    torch.testing.assert_close(found[1, 1], torch.cat(seen), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_every_family_reads_pictures(tiny_pipelines, family: str) -> None:
    backend = DiffusersBackend(tiny_pipelines.build(family))
    options = {"progress": [0.5], "site": SITES[family]}
    found = picture_activations(backend, PICTURES, seeds=[7, 8], batch_size=4, **options)
    assert found.shape[:3] == (3, 2, 1)
    assert (found[0] - found[1]).abs().max() > 1e-4
    alone = picture_activations(backend, PICTURES[2:], seeds=[8], **options)
    torch.testing.assert_close(alone[0, 0], found[2, 1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_latents_are_read_under_a_prompt_in_any_batch(tiny_pipelines, family: str) -> None:
    backend = DiffusersBackend(tiny_pipelines.build(family))
    clean = backend.sample("a cat", [3, 4], steps=2, guidance=1.0, output="latent")
    options = {"progress": [0.5], "site": SITES[family]}
    same = read_latents(backend, clean, [5, 5], prompt="a cat", **options)
    other = read_latents(backend, clean, [5, 5], prompt="a dog in the rain", **options)
    assert same.shape[:2] == (2, 1)
    assert (same - other).abs().max() > 1e-5
    told: list[int] = []
    again = read_latents(backend, clean.flip(0), [5, 5], prompt="a cat", batch_size=1, report=told.append, **options)
    torch.testing.assert_close(again.flip(0), same, atol=2e-5, rtol=1e-4)
    assert told == [1, 2]


def test_bad_input(tiny_pipelines) -> None:
    backend = DiffusersBackend(tiny_pipelines.build("sd1"))
    with pytest.raises(HapaxError, match="0 pictures and 1 seeds"):
        picture_activations(backend, [], seeds=[7], progress=[0.5])
    with pytest.raises(HapaxError, match="site"):
        read_latents(backend, torch.zeros(1, 4, 8, 8), [0], prompt="", progress=[0.5], site="nowhere")

"""Activations of given pictures: what a denoiser called by hand has on the same noised codes."""

from __future__ import annotations

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.directions import picture_activations
from hapax.core.errors import HapaxError
from PIL import Image

PICTURES = [Image.new("RGB", (32, 32), colour) for colour in ("red", "teal", "white")]


def test_activations_are_those_of_the_noised_codes(tiny_pipelines) -> None:
    backend = DiffusersBackend(tiny_pipelines.build("sd1"))
    pipeline, scheduler = backend.pipeline, backend.pipeline.scheduler
    found = picture_activations(backend, PICTURES, seeds=[7, 8], progress=[0.25, 0.75], prompt="a cat", batch_size=4)
    assert found.shape == (3, 2, 2, 16)
    assert pipeline.scheduler is scheduler

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


def test_sdxl_reads_pictures_too_and_flows_are_refused(tiny_pipelines) -> None:
    backend = DiffusersBackend(tiny_pipelines.build("sdxl"))
    found = picture_activations(backend, PICTURES, seeds=[7], progress=[0.5])
    assert (found[0] - found[1]).abs().max() > 1e-4
    with pytest.raises(HapaxError, match="flow model"):
        picture_activations(DiffusersBackend(tiny_pipelines.build("sd3")), PICTURES, seeds=[7], progress=[0.5])
    with pytest.raises(HapaxError, match="0 pictures and 1 seeds"):
        picture_activations(backend, [], seeds=[7], progress=[0.5])

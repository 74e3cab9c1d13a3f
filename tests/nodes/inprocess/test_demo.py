"""The demo model through ComfyUI's classes computes what diffusers computes with the same files."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
from hapax.core import emoji
from hapax.core.errors import HapaxError
from hapax.core.steering import AddDirection, Scope
from hapax.core.taps import Recorder
from hapax.nodes import demo
from hapax.nodes.comfy_steps import schedule_labels
from hapax.nodes.comfy_taps import add_tap

PROMPT = "a photo of a firefighter"


@pytest.fixture(scope="session")
def shipped_demo():
    if not (emoji.MODEL_FOLDER / "model_index.json").is_file():
        pytest.skip("THE DEMO MODEL WAS NOT TESTED IN COMFYUI: its weights are not in the repository yet")
    return emoji.MODEL_FOLDER


@pytest.fixture(scope="session", params=["untrained_demo", "shipped_demo"])
def folder(request):
    """The demo model's files: those that ship, and the same with random weights, which are always there."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def here(folder):
    """What the node gives on a server."""
    with pytest.MonkeyPatch.context() as patched, torch.inference_mode():
        patched.setattr(emoji, "MODEL_FOLDER", folder)
        return demo.LoadDemoModel.execute().result


@pytest.fixture(scope="session")
def there(folder):
    from hapax.core.backends.diffusers import DiffusersBackend

    return DiffusersBackend.from_folder(folder)


def text(clip, prompt):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "prompt", [PROMPT, "", "a woman firefighter with dark skin, line sketch", "a photo of a xylograph"]
)
def test_text_is_encoded_alike(here, there, prompt):
    ours = text(here[1], prompt)[0][0]
    pipeline = there.pipeline
    ids = pipeline.tokenizer(
        prompt, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    ).input_ids
    theirs = pipeline.text_encoder(ids)[0]
    assert ours.shape == theirs.shape == (1, 24, 128)
    assert relative(ours, theirs) < 1e-5


def test_a_long_prompt_is_cut_into_more_tokens(here):
    long = text(here[1], " ".join(["a photo of a cat"] * 8))[0][0]
    assert long.shape == (1, 48, 128)


@torch.no_grad()
def test_one_call_of_the_denoiser_is_the_same(here, there):
    model, clip, _ = here
    context = text(clip, PROMPT)[0][0]
    sampling = model.get_model_object("model_sampling")
    comfy.model_management.load_models_gpu([model])
    for timestep in (999, 700, 350, 20):
        x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(timestep))
        t = torch.full((2,), timestep)
        ours = model.model.diffusion_model(x, t.float(), context=context.expand(2, -1, -1))
        theirs = there.denoiser(x, t, context.expand(2, -1, -1), return_dict=False)[0]
        assert relative(ours, theirs) < 1e-5
        sigma = sampling.sigma(t)
        x0 = model.model.apply_model(x * (1 + sigma[0] ** 2).sqrt(), sigma, c_crossattn=context.expand(2, -1, -1))
        assert relative(x0, _denoised(there, theirs, x, sigma[0])) < 1e-4


def _denoised(there, output, scaled, sigma):
    """x0 from the denoiser's output and its scaled input, by the formula of either parameterisation."""
    if there.pipeline.scheduler.config.prediction_type == "epsilon":
        return scaled * (1 + sigma**2).sqrt() - sigma * output
    return (scaled - sigma * output) / (1 + sigma**2).sqrt()


def test_noise_levels_are_those_of_the_training(here, there):
    sigmas = here[0].get_model_object("model_sampling").sigmas
    alphas = there.pipeline.scheduler.alphas_cumprod
    assert torch.allclose(sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-4)


def euler(there, seeds, steps, taps, cfg):
    """diffusers' Euler on every 1000/steps-th timestep from the last one down, as latents [N, 8, 8, 8]."""
    from diffusers import EulerDiscreteScheduler

    kept = there.pipeline.scheduler
    there.pipeline.scheduler = EulerDiscreteScheduler.from_config(
        kept.config, timestep_spacing="trailing", interpolation_type="linear"
    )
    try:
        return there.sample(PROMPT, seeds, taps, steps=steps, guidance=cfg, output="latent"), _sigmas(there)
    finally:
        there.pipeline.scheduler = kept


def _sigmas(there):
    return there.pipeline.scheduler.sigmas.float()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_features_and_steered_latents_after_20_steps_are_the_same(here, there, cfg):
    model, clip, _ = here
    seeds, generator = [3, 4], torch.Generator().manual_seed(0)
    channels = there.sites["mid"].channels
    direction = AddDirection(torch.randn(channels, generator=generator), strength=20.0, scope=Scope(end=0.6))
    targets = [0.1, 0.5, 0.9]
    recorders = Recorder(targets), Recorder(targets)
    theirs, sigmas = euler(there, seeds, 20, {"mid": [direction, recorders[1]]}, cfg)
    tapped = add_tap(add_tap(model, "mid", direction), "mid", recorders[0])
    noise = torch.stack([torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    # ComfyUI starts from noise sqrt(1 + sigma^2), diffusers' trailing Euler from the same.
    ours = comfy.sample.sample_custom(
        tapped,
        noise,
        cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        text(clip, PROMPT),
        text(clip, ""),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=0,
    )
    scale = there.pipeline.vae.config.scaling_factor
    for row in range(2):
        (found, at), (expected, when) = recorders[0].take(row), recorders[1].take(row)
        assert torch.allclose(at, when, atol=2e-3)
        assert relative(found, expected) < 1e-3
    assert relative(ours * scale, theirs) < 1e-3
    unsteered, _ = euler(there, seeds, 20, {}, cfg)
    assert relative(theirs, unsteered) > 1e-2, "the steering does something"


def test_pictures_are_decoded_and_encoded_alike(here, there):
    latents = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    scale = there.pipeline.vae.config.scaling_factor
    with torch.no_grad():
        theirs = there.pipeline.vae.decode(latents / scale).sample
    ours = here[2].decode(here[0].model.process_latent_out(latents))
    assert relative(ours.permute(0, 3, 1, 2), ((theirs + 1) / 2).clamp(0, 1)) < 1e-4
    again = here[2].encode(ours)
    assert again.shape == (2, 8, 8, 8)


@pytest.mark.parametrize("folder", ["shipped_demo"], indirect=True)
def test_a_preview_looks_like_its_own_picture(here):
    import latent_preview
    from comfy.cli_args import args

    kept, args.preview_method = args.preview_method, latent_preview.LatentPreviewMethod.Auto
    try:
        previewer = latent_preview.get_previewer(torch.device("cpu"), here[0].model.latent_format)
    finally:
        args.preview_method = kept
    small, seen = [], []
    for seed, name in enumerate(("firefighter", "cat", "pizza", "farmer")):
        noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
        prompts = text(here[1], f"a photo of a {name}"), text(here[1], "")
        empty = torch.zeros_like(noise)
        latents = comfy.sample.sample(
            here[0], noise, 10, 1.0, "dpmpp_2m", "normal", *prompts, empty, seed=seed, disable_pbar=True
        )
        picture = here[2].decode(latents).permute(0, 3, 1, 2)
        small.append(torch.nn.functional.avg_pool2d(picture, 8).flatten())
        preview = previewer.decode_latent_to_preview(here[0].model.process_latent_in(latents))
        seen.append(torch.tensor(list(preview.tobytes())).view(8, 8, 3).permute(2, 0, 1).flatten().float())
    alike = torch.corrcoef(torch.stack(small + seen))[:4, 4:]
    own, others = alike.diagonal().mean(), alike[~torch.eye(4, dtype=torch.bool)].mean()
    assert float(own) > float(others) + 0.2


def test_a_copy_of_its_own_can_be_made(here):
    """ComfyUI's LoRA trainer and its multi-GPU clones load a model anew by this."""
    build, arguments = here[0].cached_patcher_init[:2]
    copy = build(*arguments, disable_dynamic=True)
    assert copy.model is not here[0].model
    for key, value in copy.model.state_dict().items():
        assert torch.equal(value, here[0].model.state_dict()[key]), key


def test_progress_is_that_of_the_diffusers_backend(here, there):
    from hapax.core.backends.schedules import TrainingSchedule

    timesteps = torch.tensor([999.0, 500.0, 1.0])
    theirs = TrainingSchedule.of(there.pipeline.scheduler)
    sigma, timestep, progress = schedule_labels(here[0].get_model_object("model_sampling"), theirs.sigma(timesteps))
    assert torch.equal(timestep, timesteps)
    assert torch.allclose(progress, theirs.progress(timesteps))
    assert torch.allclose(sigma, theirs.sigma(timesteps))


def test_missing_files_are_said(tmp_path):
    with pytest.raises(HapaxError, match=r"files are not in .*; install Hapax anew"):
        demo.load_model(tmp_path)

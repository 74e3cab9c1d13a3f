from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.errors import HapaxError
from hapax.core.sites import site_module
from hapax.core.steering import AddDirection, Scope
from hapax.core.taps import Recorder, to_tokens

# a site of each block class of each architecture
SITES = [
    ("sd1", "mid"),
    ("sdxl", "mid"),
    ("sd3", "double.0"),
    ("sd3", "double.2"),
    ("flux", "double.1"),
    ("flux", "single.1"),
]
EPS = [(name, "eps") for name in ("sd1", "sdxl", "sd3", "flux")]
ONE_SITE = [("sd1", "mid"), ("sdxl", "mid"), ("sd3", "double.1"), ("flux", "single.0")]
PROMPTS = ["a doctor", "a nurse.", "a photo of a cat", "7 dogs", "tea"]
SEEDS = [3, 14, 15, 92, 65]
# Measured on pictures in [0, 1], four architectures, 3 steps, float32: 9e-7 on one CPU, 2.03e-6 on another with two
# threads. It's rounding, which differs by the machine; another sample's noise would be a thousand times as far off.
BATCHED_KERNELS = 1e-5


class Capture:
    """Keeps every call it gets."""

    def __init__(self):
        self.calls = []

    def __call__(self, h, step):
        self.calls.append((h.clone(), step))


@pytest.fixture(scope="module")
def backends(tiny_pipelines):
    return {name: DiffusersBackend(tiny_pipelines.build(name)) for name in tiny_pipelines.BUILDERS}


@pytest.fixture
def fresh(tiny_pipelines):
    """Build a backend whose pipeline a test may change."""
    return lambda name: DiffusersBackend(tiny_pipelines.build(name))


def sample(backend, taps=None, n=2, **options):
    options = {"steps": 3, "guidance": 4.0, "height": 32, "width": 32, "output": "pt"} | options
    if hasattr(backend.pipeline, "transformer"):
        options["max_sequence_length"] = 16
    return backend.sample(PROMPTS[:n], SEEDS[:n], taps, **options)


def direction(backend, site, strength=5.0, **scope):
    channels = backend.sites[site].channels
    return AddDirection(torch.linspace(-1, 1, channels), strength=strength, scope=Scope(**scope))


def hook_count(backend):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in backend.denoiser.modules())


# Reading


@pytest.mark.parametrize(("name", "site"), SITES + EPS)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("n", [2, 3])
def test_a_tap_sees_what_a_plain_forward_hook_sees(backends, name, site, guidance, n):
    backend, capture, plain = backends[name], Capture(), []

    def hook(module, args, kwargs, output):
        # Written out by hand: UNets return the activations, the joint blocks (text, picture).
        picture = output[0] if site == "eps" else output if site == "mid" else output[1]
        plain.append(picture.clone())

    handle = site_module(backend.denoiser, backend.sites[site]).register_forward_hook(hook, with_kwargs=True)
    try:
        sample(backend, {site: capture}, n=n, guidance=guidance)
    finally:
        handle.remove()
    assert len(plain) == len(capture.calls) == 3
    for expected, (h, step) in zip(plain, capture.calls, strict=True):
        assert torch.equal(h, expected)
        assert to_tokens(h).shape[1:] == (step.grid[0] * step.grid[1], backend.sites[site].channels)


@pytest.mark.parametrize(("name", "site"), SITES)
def test_an_update_is_output_minus_input(backends, name, site):
    backend, output, update, inputs = backends[name], Capture(), Capture(), []

    def keep_input(module, args, kwargs):
        inputs.append((args[0] if args else kwargs["hidden_states"]).clone())

    module = site_module(backend.denoiser, backend.sites[site])
    handle = module.register_forward_pre_hook(keep_input, with_kwargs=True)
    try:
        sample(backend, {site: output, f"{site}:update": update})
    finally:
        handle.remove()
    assert len(inputs) == 3
    for before, (out, _), (delta, _) in zip(inputs, output.calls, update.calls, strict=True):
        assert torch.equal(delta, out - before)


@pytest.mark.parametrize(("name", "site"), SITES)
@pytest.mark.parametrize(("guidance", "batch_size"), [(4.0, 5), (4.0, 2), (1.0, 3)])
def test_a_recorder_keeps_each_samples_own_tokens(backends, name, site, guidance, batch_size):
    """In batches of any size it records what the sample alone, and nothing but it, would have shown."""
    backend, positions = backends[name], [0, 9, 63]
    recorder = Recorder([0.0, 0.4, 1.0], positions)
    sample(backend, {site: recorder}, n=5, guidance=guidance, batch_size=batch_size)
    assert recorder.samples == [0, 1, 2, 3, 4]
    for i in range(5):
        tokens, progress = recorder.take(i)
        alone = Capture()
        options = {"max_sequence_length": 16} if hasattr(backend.pipeline, "transformer") else {}
        backend.sample(
            PROMPTS[i], [SEEDS[i]], {site: alone}, steps=3, guidance=guidance, height=32, width=32, **options
        )
        along = torch.stack([step.progress[-1] for _, step in alone.calls])
        nearest = [int((along - target).abs().argmin()) for target in (0.0, 0.4, 1.0)]
        expected = torch.stack([to_tokens(alone.calls[k][0])[-1, positions] for k in nearest])
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(progress, along[nearest])


# Labels


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_rows_are_labelled_by_what_they_are_denoised_under(backends, name, n, guidance):
    """The text's hidden states tell the halves apart: each prompt's own, or one for all."""
    capture = Capture()
    sample(backends[name], {"eps": capture}, n=n, guidance=guidance)
    guided = guidance > 1 and name != "flux"
    for _, step in capture.calls:
        assert len(step.cond) == len(step.x) == len(step.context) == n * (2 if guided else 1)
        for i in range(n):
            assert int(step.cond[step.sample == i].sum()) == 1
        prompted = step.context[step.cond]
        assert len({tuple(text.flatten().tolist()) for text in prompted}) == n
        if guided:
            empty = step.context[~step.cond]
            assert torch.equal(empty, empty[:1].expand_as(empty))
            assert not any(torch.equal(empty[0], text) for text in prompted)


def test_the_negative_prompts_rows_are_the_unconditional_ones(backends):
    capture, plain = Capture(), Capture()
    sample(backends["sd1"], {"eps": capture}, negative=["a cat", "a dog"])
    backends["sd1"].sample(["a cat", "a dog"], SEEDS[:2], {"eps": plain}, steps=1, guidance=1.0)
    step = capture.calls[0][1]
    assert torch.equal(step.context[~step.cond], plain.calls[0][1].context)


def test_sample_is_the_index_in_the_callers_list(backends):
    capture = Capture()
    sample(backends["sd1"], {"mid": capture}, n=5, batch_size=2, steps=1)
    assert [step.sample.tolist() for _, step in capture.calls] == [[0, 1, 0, 1], [2, 3, 2, 3], [4, 4]]


@pytest.mark.parametrize(("name", "site"), ONE_SITE)
def test_progress_and_sigma_follow_the_schedule_not_the_steps(backends, name, site):
    backend = backends[name]
    for steps in (2, 5):
        capture = Capture()
        sample(backend, {site: capture}, steps=steps)
        labels = [step for _, step in capture.calls]
        progress = torch.stack([step.progress[0] for step in labels])
        assert torch.all(progress[1:] > progress[:-1])
        assert progress.min() >= 0
        assert progress.max() <= 1
        timesteps = backend.pipeline.scheduler.timesteps.float()
        torch.testing.assert_close(torch.stack([step.timestep[0] for step in labels]), timesteps)
        discrete = name in ("sd1", "sdxl")
        torch.testing.assert_close(progress, 1 - timesteps / (999 if discrete else 1000))
        if name != "sd1":
            own = backend.pipeline.scheduler.sigmas[:-1].float()
            torch.testing.assert_close(torch.stack([step.sigma[0] for step in labels]), own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "site", "scheduler"),
    [("sd1", "mid", HeunDiscreteScheduler), ("sd3", "double.1", FlowMatchHeunDiscreteScheduler)],
)
def test_two_calls_a_step_do_no_harm(fresh, name, site, scheduler):
    """Heun's sampler comes twice to the same noise level; the first call is kept."""
    backend = fresh(name)
    backend.pipeline.scheduler = scheduler.from_config(backend.pipeline.scheduler.config)
    capture, recorder = Capture(), Recorder([0.5])
    pictures = sample(backend, {site: [capture, recorder]}, n=3, steps=4)
    assert len(capture.calls) == 7
    along = torch.stack([step.progress[0] for _, step in capture.calls])
    nearest = int((along - 0.5).abs().argmin())
    assert int((along == along[nearest]).sum()) == 2
    for i in range(3):
        tokens, progress = recorder.take(i)
        assert torch.equal(tokens[0], to_tokens(capture.calls[nearest][0])[3 + i])
        assert torch.equal(progress, along[[nearest]])
    assert (pictures - sample(backend, n=3, steps=4, batch_size=1)).abs().max() <= BATCHED_KERNELS


# Writing


@pytest.mark.parametrize(("name", "site"), SITES + EPS)
def test_strength_zero_gives_bit_equal_pictures(backends, name, site):
    backend = backends[name]
    plain = sample(backend)
    assert torch.equal(sample(backend, {site: direction(backend, site, strength=0.0)}), plain)
    assert not torch.equal(sample(backend, {site: direction(backend, site)}), plain)


@pytest.mark.parametrize(("name", "site"), SITES)
def test_an_update_tap_that_changes_nothing_gives_bit_equal_pictures(backends, name, site):
    """Also when it returns another tensor, and the sum of input and update would have been rounded anew."""
    backend = backends[name]
    assert torch.equal(sample(backend, {f"{site}:update": lambda h, step: h.clone()}), sample(backend))


@pytest.mark.parametrize(("name", "site"), SITES)
def test_an_edit_of_the_update_is_one_of_the_output(backends, name, site):
    backend = backends[name]
    tap = direction(backend, site)
    on_output, on_update = (sample(backend, {key: tap}) for key in (site, f"{site}:update"))
    torch.testing.assert_close(on_update, on_output, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "site"), SITES)
@pytest.mark.parametrize("rows", ["cond", "uncond", "both"])
def test_only_the_chosen_rows_are_touched(backends, name, site, rows):
    backend, before, after = backends[name], Capture(), Capture()
    sample(backend, {site: [before, direction(backend, site, rows=rows), after]}, n=3)
    for (h, step), (edited, _) in zip(before.calls, after.calls, strict=True):
        changed = torch.tensor([not torch.equal(a, b) for a, b in zip(h, edited, strict=True)])
        wanted = {"cond": step.cond, "uncond": ~step.cond, "both": torch.ones_like(step.cond)}[rows]
        assert torch.equal(changed, wanted)


@pytest.mark.parametrize(("name", "site"), SITES)
def test_what_comes_before_the_window_is_bit_equal(backends, name, site):
    backend, plain, steered = backends[name], Capture(), Capture()
    sample(backend, {"eps": plain}, steps=6)
    tap = direction(backend, site, start=0.45)
    sample(backend, {site: tap, "eps": steered}, steps=6)
    began = [float(step.progress[0]) >= 0.45 for _, step in plain.calls]
    assert 0 < sum(began) < 6
    for late, (a, _), (b, _) in zip(began, plain.calls, steered.calls, strict=True):
        assert torch.equal(a, b) != late


@pytest.mark.parametrize(("name", "site"), SITES)
def test_a_mask_edits_its_half_of_the_token_grid(backends, name, site):
    backend, before, after = backends[name], Capture(), Capture()
    mask = torch.zeros(32, 48)
    mask[:, :24] = 1
    tap = direction(backend, site, mask=mask)
    sample(backend, {site: [before, tap, after]}, height=32, width=48, steps=1, guidance=1.0)
    ((h, step),), ((edited, _),) = before.calls, after.calls
    assert step.grid == (8, 12)
    change = (to_tokens(edited) - to_tokens(h)).norm(dim=-1).unflatten(1, step.grid)
    assert torch.all(change[:, :, :5] > 1)
    assert torch.all(change[:, :, 7:] == 0)


def test_taps_at_two_sites_act_together(backends):
    backend, seen = backends["flux"], Capture()
    sample(backend, {"double.0": direction(backend, "double.0"), "single.1": seen}, steps=1)
    plain = Capture()
    sample(backend, {"single.1": plain}, steps=1)
    assert not torch.equal(seen.calls[0][0], plain.calls[0][0])


@pytest.mark.parametrize(
    "bad",
    [lambda h, step: h[:1], lambda h, step: h.double(), lambda h, step: to_tokens(h)],
    ids=["rows", "dtype", "layout"],
)
def test_a_tap_that_returns_another_shape_or_dtype_is_refused(backends, bad):
    with pytest.raises(HapaxError, match="A tap at mid got"):
        sample(backends["sd1"], {"mid": bad})


# Pictures


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_a_picture_is_the_one_of_the_plain_pipeline(backends, name):
    """The noise is drawn as diffusers draws it for one picture from a CPU generator, so the bits agree."""
    pipeline = backends[name].pipeline
    options = {"max_sequence_length": 16} if hasattr(pipeline, "transformer") else {}
    plain = pipeline(
        PROMPTS[0],
        generator=torch.Generator().manual_seed(SEEDS[0]),
        num_inference_steps=3,
        guidance_scale=4.0,
        height=32,
        width=32,
        output_type="pt",
        **options,
    ).images
    assert torch.equal(sample(backends[name], n=1), plain)


@pytest.mark.parametrize(("name", "site"), ONE_SITE)
@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_a_picture_is_the_same_alone_and_in_any_batch(backends, name, site, batch_size):
    backend = backends[name]
    taps = {site: direction(backend, site)}
    alone, batched = (sample(backend, taps, n=5, batch_size=size) for size in (1, batch_size))
    assert (alone - batched).abs().max() <= BATCHED_KERNELS
    assert alone.std() > 0.05


@pytest.mark.parametrize("scheduler", [EulerAncestralDiscreteScheduler, DDPMScheduler])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_samplers_that_draw_noise_draw_it_per_sample(fresh, name, scheduler):
    backend = fresh(name)
    backend.pipeline.scheduler = scheduler.from_config(backend.pipeline.scheduler.config)
    alone, batched = (sample(backend, n=5, batch_size=size) for size in (1, 3))
    assert (alone - batched).abs().max() <= BATCHED_KERNELS
    torch.manual_seed(1)
    assert torch.equal(sample(backend, n=5, batch_size=3), batched)


def test_ddim_with_eta_draws_per_sample(backends):
    backend = backends["sd1"]
    alone, batched = (sample(backend, n=5, batch_size=size, eta=1.0) for size in (1, 3))
    assert (alone - batched).abs().max() <= BATCHED_KERNELS
    assert (alone - sample(backend, n=5)).abs().max() > 0.01


def test_a_picture_depends_on_its_seed_and_nothing_global(backends):
    backend = backends["sd1"]
    one = backend.sample("tea", [1, 2, 1], steps=2, output="latent")
    torch.manual_seed(5)
    two = backend.sample("tea", [1, 2, 1], steps=2, output="latent")
    assert torch.equal(one, two)
    assert torch.allclose(one[0], one[2], atol=1e-5)
    assert not torch.allclose(one[0], one[1], atol=1e-1)


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_kinds_of_output(backends, name):
    pictures = sample(backends[name], n=3, output="pil", batch_size=2)
    assert [picture.size for picture in pictures] == [(32, 32)] * 3
    assert sample(backends[name], n=3).shape == (3, 3, 32, 32)
    latent = sample(backends[name], n=3, output="latent")
    assert latent.shape == ((3, 64, 16) if name == "flux" else (3, 4, 16, 16))


@pytest.mark.parametrize(("name", "site"), ONE_SITE)
def test_bfloat16(fresh, name, site):
    backend = fresh(name)
    backend.pipeline.to(torch.bfloat16)
    recorder, capture = Recorder([0.5]), Capture()
    plain = sample(backend, {site: [recorder, capture]})
    assert capture.calls[0][0].dtype == torch.bfloat16
    assert recorder.take(1)[0].dtype == torch.float32
    assert torch.equal(sample(backend, {site: direction(backend, site, strength=0.0)}), plain)
    assert not torch.equal(sample(backend, {site: direction(backend, site, norm_limit=1.0)}), plain)


def test_activations_that_are_not_finite_end_the_run(fresh):
    backend = fresh("sd1")
    with torch.no_grad():
        backend.denoiser.mid_block.resnets[0].conv1.bias[0] = torch.nan
    with pytest.raises(HapaxError, match="not finite"):
        sample(backend, {"mid": Recorder([0.5])})
    assert hook_count(backend) == 0


# Runs that end early, and progress


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["tap", "progress"])
def test_no_hook_is_left_behind(backends, error, where):
    backend = backends["sdxl"]
    before = backend.pipeline._progress_bar_config
    backend.pipeline.set_progress_bar_config(desc="mine")

    def stop(*args):
        assert hook_count(backend) > 0
        raise error

    try:
        taps = {"mid": stop if where == "tap" else Capture(), "eps": Capture()}
        with pytest.raises(error):
            sample(backend, taps, progress=stop if where == "progress" else None)
        assert hook_count(backend) == 0
        assert backend.pipeline._progress_bar_config == {"desc": "mine"}
    finally:
        backend.pipeline.set_progress_bar_config(**before)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_progress_counts_up_to_the_total(backends, name):
    counts = []
    sample(backends[name], n=5, batch_size=2, progress=lambda done, total: counts.append((done, total)))
    assert counts == [(done, 15) for done in (2, 4, 6, 8, 10, 12, 13, 14, 15)]


# Bad input


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("sd1", {"taps": {"double.3": Capture()}}, "no site 'double.3' in this denoiser; it has mid, eps"),
        ("flux", {"taps": {"mid": Capture()}}, "it has double.0 to double.1, single.0 to single.1, eps"),
        ("sd1", {"guidance": 1.0, "negative": "ugly"}, "would do nothing: the model runs with guidance 1,"),
        ("flux", {"negative": "ugly"}, "would do nothing: the model takes guidance as an input"),
        (
            "flux",
            {"true_cfg_scale": 2.0},
            "can't be given true_cfg_scale here; the options are height, width",
        ),
        ("sd1", {"max_sequence_length": 8}, "can't be given max_sequence_length"),
        ("sd1", {"height": 36}, "32 x 36 pixels; give multiples of 8"),
        ("sd3", {"width": 30}, "30 x 32 pixels; give multiples of 4"),
        ("flux", {"width": 2}, "2 x 32 pixels; give multiples of 4"),
        ("sd1", {"batch_size": 0}, "batch_size is 0"),
        ("sd1", {"steps": 0}, "steps is 0"),
        ("sd1", {"output": "jpeg"}, "output is 'jpeg'"),
        ("sd1", {"negative": ["a", "b", "c"]}, "negative has 3 entries for 2 seeds"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(backends, name, options, sentence):
    with pytest.raises(HapaxError, match=sentence):
        sample(backends[name], **options)


def test_prompts_and_seeds_must_match(backends):
    with pytest.raises(HapaxError, match="prompts has 3 entries for 2 seeds"):
        backends["sd1"].sample(PROMPTS[:3], SEEDS[:2])
    with pytest.raises(HapaxError, match="no seeds"):
        backends["sd1"].sample("a doctor", [])

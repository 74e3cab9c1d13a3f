"""Taps on ComfyUI's models do what the diffusers backend's do, and leave everything else as it was."""

from __future__ import annotations

import comfy.conds
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from hapax.core.errors import HapaxError
from hapax.core.sites import Site
from hapax.core.steering import AddDirection, Scope
from hapax.core.taps import Recorder
from hapax.nodes.comfy_eps import pack
from hapax.nodes.comfy_sites import site_of, sites_of
from hapax.nodes.comfy_steps import schedule_labels
from hapax.nodes.comfy_taps import add_tap


class Log:
    """A tap that keeps every call's Step and activations."""

    def __init__(self):
        self.steps, self.h = [], []

    def __call__(self, h, step):
        self.steps.append(step)
        self.h.append(h.clone())


def direction(channels, *, strength=3.0, seed=5, **scope):
    # Not constant over the channels: a DiT's LayerNorm takes a constant away.
    vector = torch.randn(channels, generator=torch.Generator().manual_seed(seed))
    return AddDirection(vector, strength=strength, scope=Scope(**scope))


def steered(subject, *, site=None, model=None, channels=None, **options):
    tap = direction(channels or subject.site_channels, **options)
    return add_tap(subject.model if model is None else model, site or subject.site, tap)


EXPECTED_SITES = {
    "sd15": [("mid", 128), ("eps", 4)],
    "sdxl": [("mid", 128), ("eps", 4)],
    "sd3": [("double.0", 128), ("double.1", 128), ("eps", 16)],
    "flux": [("double.0", 96), ("double.1", 96), ("single.0", 96), ("single.1", 96), ("eps", 64)],
}


def test_sites_have_the_names_and_channels_of_the_diffusers_backend(any_subject):
    sites = sites_of(any_subject.model)
    assert [(site.name, site.channels) for site in sites] == EXPECTED_SITES[any_subject.family]
    assert {(site.kind, site.tokens) for site in sites} == {("output", "img")}


def test_auto_is_the_middle(subject):
    assert site_of(subject("sd15").model, "auto").name == "mid"
    assert site_of(subject("flux").model, "auto").name == "double.1"


def test_what_does_not_fit_is_refused_in_a_sentence(sd15, flux, vae):
    with pytest.raises(HapaxError, match=r"no site 'double.0' in this denoiser; it has mid, eps"):
        add_tap(sd15.model, "double.0", Log())
    with pytest.raises(HapaxError, match=r"640 channels .* has 128"):
        add_tap(sd15.model, Site("mid", "output", 640, "img"), Log())
    with pytest.raises(HapaxError, match=r"4 channels but the site has 96; use it at the site"):
        flux.sample(steered(flux, channels=4))
    patcher = sd15.model.clone()
    patcher.model = torch.nn.Module()
    patcher.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(HapaxError, match="is a Linear, whose blocks are unknown"):
        sites_of(patcher)


UNET, DIT = ["mid", "mid:update", "eps"], ["double.0", "double.1:update", "eps"]
WHERE = {"sd15": UNET, "sdxl": UNET, "sd3": DIT, "flux": [*DIT, "single.1", "single.0:update"]}


@pytest.mark.parametrize(("family", "where"), [(family, site) for family, sites in WHERE.items() for site in sites])
def test_strength_zero_is_bit_equal_and_more_is_not(subject, family, where):
    tiny = subject(family)
    names = {site.name: site.channels for site in sites_of(tiny.model)}
    name = where.partition(":")[0]
    base = tiny.sample(rows=2)
    options = {"site": where, "channels": names[name]}
    assert torch.equal(tiny.sample(steered(tiny, strength=0.0, **options), rows=2), base)
    assert not torch.allclose(tiny.sample(steered(tiny, **options), rows=2), base)
    assert torch.equal(tiny.sample(rows=2), base)


def test_mid_is_what_the_middle_block_returns(sd15):
    log, hooked = Log(), []
    handle = sd15.model.model.diffusion_model.middle_block[-1].register_forward_hook(
        lambda module, args, out: hooked.append(out.clone())
    )
    try:
        sd15.sample(add_tap(sd15.model, "mid", log), rows=2)
    finally:
        handle.remove()
    assert len(hooked) == 4
    assert all(torch.equal(a, b) for a, b in zip(log.h, hooked, strict=True))
    assert log.steps[0].grid == (2, 2)


def test_update_is_output_less_input(sd15):
    update, output, entered = Log(), Log(), []
    handle = sd15.model.model.diffusion_model.middle_block[0].register_forward_pre_hook(
        lambda module, args: entered.append(args[0].clone())
    )
    model = add_tap(add_tap(sd15.model, "mid:update", update), "mid", output)
    try:
        sd15.sample(model)
    finally:
        handle.remove()
    for change, after, before in zip(update.h, output.h, entered, strict=True):
        assert torch.equal(change, after - before)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_double_blocks_give_the_pictures_tokens(subject, family):
    tiny, log, hooked = subject(family), Log(), []
    denoiser = tiny.model.model.diffusion_model
    block = (denoiser.joint_blocks if family == "sd3" else denoiser.double_blocks)[0]
    stream = 1 if family == "sd3" else 0
    handle = block.register_forward_hook(lambda module, args, out: hooked.append(out[stream].clone()))
    try:
        tiny.sample(add_tap(tiny.model, "double.0", log), size=(8, 6))
    finally:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(log.h, hooked, strict=True))
    assert log.steps[0].grid == (4, 3)
    assert log.h[0].shape[1] == 12


def test_single_blocks_leave_the_texts_tokens_out(flux):
    log, hooked = Log(), []
    block = flux.model.model.diffusion_model.single_blocks[0]
    handle = block.register_forward_hook(lambda module, args, out: hooked.append(out.clone()))
    try:
        flux.sample(add_tap(flux.model, "single.0", log))
    finally:
        handle.remove()
    assert hooked[0].shape[1] == 77 + 16
    assert all(torch.equal(a, b[:, 77:]) for a, b in zip(log.h, hooked, strict=True))


def test_odd_latents_have_a_token_for_every_started_cell(sd3, flux):
    for tiny in (sd3, flux):
        log = Log()
        tiny.sample(add_tap(tiny.model, "double.0", log), size=(7, 5))
        assert log.steps[0].grid == (4, 3)
        assert log.h[0].shape[1] == 12
    flux.sample(steered(flux, site="eps", channels=64), size=(7, 5))


def test_eps_is_the_denoisers_own_output(any_subject):
    log, outputs = Log(), []
    model = add_tap(any_subject.model, "eps", log)
    handle = any_subject.model.model.diffusion_model.register_forward_hook(
        lambda module, args, out: outputs.append(out.float().clone())
    )
    try:
        any_subject.sample(model, rows=2, size=(8, 6))
    finally:
        handle.remove()
    for seen, out in zip(log.h, outputs, strict=True):
        expected = pack(out) if any_subject.family == "flux" else out
        assert torch.allclose(seen, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_taps_compose_in_order_and_earlier_ones_survive(any_subject):
    """Doubling and then adding is not adding and then doubling."""

    def double(h, step):
        return 2 * h

    def add(h, step):
        return h + 1

    for site in (any_subject.site, "eps"):
        seen = Log()
        first = add_tap(any_subject.model, site, Log())
        model = add_tap(add_tap(add_tap(first, site, double), site, add), site, seen)
        plain = Log()
        any_subject.sample(add_tap(any_subject.model, site, plain), steps=1)
        any_subject.sample(model, steps=1)
        assert torch.allclose(seen.h[0], 2 * plain.h[0] + 1, rtol=1e-5)


def test_another_packs_replacement_of_the_block_is_kept(sd3):
    calls = []

    def other(args, extra):
        calls.append(args["img"].shape)
        return extra["original_block"](args)

    theirs = sd3.model.clone()
    theirs.set_model_patch_replace(other, "dit", "double_block", 0)
    model = steered(sd3, model=theirs)
    result = sd3.sample(model)
    assert len(calls) == 4
    assert not torch.allclose(result, sd3.sample())


def test_two_clones_with_different_steering_do_not_touch_each_other(any_subject):
    base = any_subject.sample()
    one, other = steered(any_subject, seed=5), steered(any_subject, seed=6)
    alone = [any_subject.sample(one), any_subject.sample(other)]
    assert not torch.allclose(*alone)
    assert torch.equal(any_subject.sample(one), alone[0])
    assert torch.equal(any_subject.sample(other), alone[1])
    assert torch.equal(any_subject.sample(), base)


def test_a_clone_of_a_tapped_model_keeps_its_taps_and_their_state(any_subject):
    log = Log()
    model = add_tap(any_subject.model, any_subject.site, log).clone().clone()
    any_subject.sample(model)
    assert len(log.steps) == 4, "the tap was copied, and the copy written to"


def test_steps_say_when_and_for_whom(sd15):
    log = Log()
    sd15.sample(add_tap(sd15.model, "mid", log), rows=3)
    sigmas = comfy.samplers.calculate_sigmas(sd15.model.get_model_object("model_sampling"), "normal", 4)
    for step, sigma in zip(log.steps, sigmas, strict=False):
        assert step.cond.tolist() == [False] * 3 + [True] * 3
        assert step.sample.tolist() == [0, 1, 2] * 2
        assert torch.allclose(step.sigma, sigma.expand(6))
        assert step.x.shape == (6, 4, 8, 8)
        assert step.context.shape == (6, 77, 64)
        assert torch.equal(step.context[3], sd15.positive[0][0][0])
    timesteps = [float(step.timestep[0]) for step in log.steps]
    assert timesteps == [999, 666, 333, 0]
    assert [float(step.progress[0]) for step in log.steps] == pytest.approx([1 - t / 999 for t in timesteps])


def test_x_is_what_the_denoiser_receives(any_subject):
    log, received = Log(), []
    handle = any_subject.model.model.diffusion_model.register_forward_pre_hook(
        lambda module, args: received.append(args[0].clone())
    )
    try:
        any_subject.sample(add_tap(any_subject.model, any_subject.site, log))
    finally:
        handle.remove()
    assert all(torch.equal(step.x, x) for step, x in zip(log.steps, received, strict=True))


def test_a_flows_progress_is_that_of_its_noise_level(sd3, flux):
    for tiny in (sd3, flux):
        log = Log()
        tiny.sample(add_tap(tiny.model, "double.0", log), scheduler="simple")
        for step in log.steps:
            assert torch.allclose(step.timestep, 1000 * step.sigma)
            assert torch.allclose(step.progress, 1 - step.sigma)


def test_a_shift_put_on_after_the_tap_counts(sd3, subject):
    log = Log()
    model = add_tap(sd3.model, "double.0", log)

    class Shifted(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    shifted = Shifted(sd3.model.model.model_config)
    shifted.set_parameters(shift=9.0)
    model.add_object_patch("model_sampling", shifted)
    sd3.sample(model, scheduler="simple")
    expected = comfy.samplers.calculate_sigmas(shifted, "simple", 4)[:-1]
    assert torch.allclose(torch.stack([step.sigma[0] for step in log.steps]), expected)

    tiny, late = subject("sd15"), Log()
    model = add_tap(tiny.model, "mid", late)

    class ZeroSNR(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model.add_object_patch("model_sampling", ZeroSNR(tiny.model.model.model_config, zsnr=True))
    tiny.sample(model)
    assert float(late.steps[0].sigma[0]) > 1000
    assert float(late.steps[0].timestep[0]) == 999


def split_batches(monkeypatch, model):
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e15)


def test_rows_are_told_apart_when_the_halves_run_separately(sd15, monkeypatch):
    results = {}
    for rows in ("cond", "uncond", "both"):
        results[rows] = sd15.sample(steered(sd15, rows=rows), rows=2)
    base = sd15.sample(rows=2)
    split_batches(monkeypatch, sd15.model)
    log = Log()
    sd15.sample(add_tap(sd15.model, "mid", log), rows=2)
    assert [step.cond.tolist() for step in log.steps[:2]] == [[False, False], [True, True]]
    scale = float((results["cond"] - base).abs().max())
    for rows, whole in results.items():
        assert torch.allclose(sd15.sample(steered(sd15, rows=rows), rows=2), whole, atol=1e-3 * scale, rtol=1e-3)
    assert not torch.allclose(results["cond"], results["uncond"], atol=1e-2 * scale)


def test_without_guidance_there_are_only_rows_under_the_prompt(sd15):
    log = Log()
    sd15.sample(add_tap(sd15.model, "mid", log), cfg=1.0, rows=2)
    assert all(step.cond.tolist() == [True, True] for step in log.steps)
    base = sd15.sample(cfg=1.0)
    assert torch.equal(sd15.sample(steered(sd15, rows="uncond"), cfg=1.0), base)
    assert not torch.allclose(sd15.sample(steered(sd15, rows="cond"), cfg=1.0), base)


def test_a_guider_with_its_own_order_is_understood(sd15, tiny_models):
    """ComfyUI's dual guider runs [negative, middle, positive]: there the prompt's index is 2, not 0."""
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    log = Log()
    guider = Guider_DualCFG(add_tap(sd15.model, "mid", log))
    guider.set_conds(sd15.positive, tiny_models.conditioning(3), sd15.negative)
    guider.set_cfg(3.0, 2.0)
    sigmas = comfy.samplers.calculate_sigmas(sd15.model.get_model_object("model_sampling"), "normal", 2)
    noise = torch.randn(1, 4, 8, 8)
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True)
    for step in log.steps:
        prompt = [row for row, cond in enumerate(step.cond.tolist()) if cond]
        assert len(prompt) == 1
        assert torch.equal(step.context[prompt[0]], sd15.positive[0][0][0])


def area(conditioning, height, width, y, x):
    text, extra = conditioning[0]
    return [text, {**extra, "area": (height, width, y, x), "strength": 1.0, "set_area_to_bounds": False}]


def test_area_prompts_neither_break_recorders_nor_edits(sd15, tiny_models):
    positive = [*sd15.positive, area(tiny_models.conditioning(7), 4, 4, 0, 0)]
    log, recorder = Log(), Recorder([0.0, 0.5, 1.0], cond_only=False)
    model = add_tap(add_tap(sd15.model, "mid", log), "mid", recorder)
    plain = sd15.sample(model, rows=2, positive=positive)
    assert {step.grid for step in log.steps} == {(2, 2), (1, 1)}
    texts = {True: [sd15.positive, tiny_models.conditioning(7)], False: [sd15.negative]}
    for step in log.steps:
        for row, cond in enumerate(step.cond.tolist()):
            assert any(torch.equal(step.context[row], each[0][0][0]) for each in texts[cond])
    assert recorder.samples == [0, 1]
    tokens, _ = recorder.take(1)
    assert tokens.shape == (3, 4, 128), "the whole picture's tokens are kept, not the area's"
    whole = [h for h, step in zip(log.h, log.steps, strict=True) if step.grid == (2, 2)]
    last = whole[-1][-1].flatten(1).T
    assert torch.equal(tokens[-1], last)
    changed = sd15.sample(steered(sd15, mask=torch.eye(8)), rows=2, positive=positive)
    assert torch.isfinite(changed).all()
    assert not torch.allclose(changed, plain)
    assert torch.equal(sd15.sample(steered(sd15, strength=0.0), rows=2, positive=positive), plain)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde", "dpmpp_2m", "uni_pc", "lcm"])
def test_any_sampler_is_followed_by_noise_level(sd15, sampler):
    """Recorded is the first call at each step's own noise level, however many calls a sampler makes."""
    sigmas = comfy.samplers.KSampler(sd15.model, steps=4, device="cpu", sampler=sampler, scheduler="normal").sigmas[:-1]
    _, _, progress = schedule_labels(sd15.model.get_model_object("model_sampling"), sigmas)
    log, recorder = Log(), Recorder(progress)
    sd15.sample(add_tap(add_tap(sd15.model, "mid", log), "mid", recorder), sampler=sampler)
    tokens, reached = recorder.take(0)
    assert torch.equal(reached, progress)
    first = {float(step.progress[0]): h for step, h in reversed(list(zip(log.steps, log.h, strict=True)))}
    for at, each in zip(progress.tolist(), tokens, strict=True):
        assert torch.equal(each, first[at][-1].flatten(1).T)
    if sampler in ("heun", "dpmpp_sde"):
        assert len(log.steps) == 7


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde"])
def test_a_window_ends_where_its_noise_level_is(sd15, sampler):
    base = sd15.sample(sampler=sampler)
    assert torch.equal(sd15.sample(steered(sd15, start=0.999, end=0.9995), sampler=sampler), base)
    early = sd15.sample(steered(sd15, end=0.4), sampler=sampler)
    late = sd15.sample(steered(sd15, start=0.6), sampler=sampler)
    assert not torch.allclose(early, base)
    assert not torch.allclose(early, late)


def test_bfloat16_models_are_steered_in_their_own_dtype(any_subject):
    model = any_subject.model
    model.set_model_compute_dtype(torch.bfloat16)
    log = Log()
    base = any_subject.sample(add_tap(model, any_subject.site, log))
    assert log.h[0].dtype == torch.bfloat16
    assert log.steps[0].x.dtype == torch.bfloat16
    assert torch.equal(any_subject.sample(steered(any_subject, model=model, strength=0.0)), base)
    assert not torch.allclose(any_subject.sample(steered(any_subject, model=model)), base)


def with_lora(subject, model=None, strength=0.8):
    """Stack weight patches on two layers, as LoraLoader does."""
    weights = subject.model.model.state_dict()
    keys = [key for key in weights if key.endswith("weight") and weights[key].ndim >= 2][:2]
    generator = torch.Generator().manual_seed(3)
    patches = {key: ("diff", (torch.randn(weights[key].shape, generator=generator) / 8,)) for key in keys}
    model = (subject.model if model is None else model).clone()
    assert set(model.add_patches(patches, strength)) == set(keys)
    return model


def test_steering_stacks_on_a_lora_and_leaves_the_weights_as_they_were(any_subject):
    before = {key: value.clone() for key, value in any_subject.model.model.state_dict().items()}
    base = any_subject.sample()
    lora = any_subject.sample(with_lora(any_subject))
    both = any_subject.sample(steered(any_subject, model=with_lora(any_subject)))
    other_way = any_subject.sample(with_lora(any_subject, steered(any_subject)))
    assert not torch.allclose(lora, base)
    assert not torch.allclose(both, lora)
    assert torch.equal(both, other_way)
    assert torch.equal(any_subject.sample(), base)
    comfy.model_management.unload_all_models()
    after = any_subject.model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_an_interrupt_in_a_tap_unwinds_and_leaves_the_model_usable(sd15):
    base = sd15.sample()

    def interrupted(h, step):
        if float(step.progress[0]) > 0.3:
            comfy.model_management.interrupt_current_processing(True)
        comfy.model_management.throw_exception_if_processing_interrupted()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sd15.sample(add_tap(sd15.model, "mid", interrupted))
    assert not comfy.model_management.processing_interrupted()
    assert torch.equal(sd15.sample(), base)


def test_modules_of_a_tap_are_loaded_and_counted_with_the_model(sd15):
    module = torch.nn.Linear(128, 128)
    model = add_tap(sd15.model, "mid", Log(), key="mine", modules=[module])
    held = model.get_nested_additional_models()
    assert [each.model for each in held] == [module]
    assert held[0].model_size() == module.weight.nbytes + module.bias.nbytes
    sd15.sample(model)
    loaded = {id(each.model.model) for each in comfy.model_management.current_loaded_models}
    assert id(module) in loaded
    twice = add_tap(model, "mid", Log(), modules=[torch.nn.Linear(2, 2)])
    assert len(twice.get_nested_additional_models()) == 2


def test_nothing_grows_with_queue_runs(any_subject):
    """What 50 queued runs leave behind: no patch, no wrapper, no hook, no tensor of ours."""
    import gc

    original = any_subject.model
    tap = direction(any_subject.site_channels)

    def run():
        any_subject.sample(add_tap(add_tap(original, any_subject.site, tap), "eps", Log()), steps=1)

    def held():
        gc.collect()
        hooks = sum(len(module._forward_hooks) for module in original.model.modules())
        tensors = sum(isinstance(each, torch.Tensor) for each in gc.get_objects())
        return hooks, len(original.object_patches), len(comfy.model_management.current_loaded_models), tensors

    for _ in range(3):
        run()
    before = held()
    for _ in range(50):
        run()
    after = held()
    assert after == before
    assert not original.model_options["transformer_options"]
    assert not any(original.wrappers.values())


def test_a_tapped_model_holds_one_wrapper_of_each_kind(any_subject):
    model = any_subject.model
    for _ in range(3):
        model = add_tap(model, any_subject.site, Log())
    assert {kind: len(model.get_all_wrappers(kind)) for kind in (WrappersMP.APPLY_MODEL, WrappersMP.OUTER_SAMPLE)} == {
        WrappersMP.APPLY_MODEL: 1,
        WrappersMP.OUTER_SAMPLE: 1,
    }
    assert not model.get_all_wrappers(WrappersMP.DIFFUSION_MODEL)
    assert not model.object_patches
    assert "model_function_wrapper" not in model.model_options


@pytest.mark.usefixtures("as_the_server_runs")
def test_taps_run_under_inference_mode(any_subject):
    base = any_subject.sample()
    assert not torch.allclose(any_subject.sample(steered(any_subject)), base)


def test_a_call_without_our_wrappers_is_refused(sd15):
    model = add_tap(sd15.model, "mid", Log())
    comfy.model_management.load_models_gpu([model])
    options = {"patches": model.model_options["transformer_options"]["patches"]}
    with pytest.raises(HapaxError, match="called without ComfyUI's wrappers"):
        model.model.apply_model(
            torch.zeros(1, 4, 8, 8), torch.ones(1), c_crossattn=sd15.positive[0][0], transformer_options=options
        )

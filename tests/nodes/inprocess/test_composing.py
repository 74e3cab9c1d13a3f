"""Taps beside what else people put on a MODEL or a CONDITIONING: ComfyUI's own nodes, before and after ours."""

from __future__ import annotations

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_freelunch, nodes_model_advanced, nodes_pag, nodes_sd3, nodes_torch_compile
from hapax.core.steering import AddDirection, Scope
from hapax.core.taps import Recorder
from hapax.nodes.comfy_sites import sites_of
from hapax.nodes.comfy_steps import schedule_labels
from hapax.nodes.comfy_taps import add_tap

import nodes as comfy_nodes


def use(node, *inputs):
    """A node's first output, whichever of ComfyUI's two ways it is written in."""
    if hasattr(node, "execute"):
        return node.execute(*inputs).result[0]
    return getattr(node(), node.FUNCTION)(*inputs)[0]


class Log:
    """A tap that keeps every call's progress, labels and activations."""

    def __init__(self):
        self.calls = []

    def __call__(self, h, step):
        self.calls.append((float(step.progress[0]), step.cond.tolist(), h.clone()))


def push(subject, model=None, strength=3.0, **scope):
    vector = torch.randn(subject.site_channels, generator=torch.Generator().manual_seed(5))
    tap = AddDirection(vector, strength=strength, scope=Scope(**scope))
    return add_tap(subject.model if model is None else model, subject.site, tap)


def free_u(model):
    return use(nodes_freelunch.FreeU_V2, model, 1.3, 1.4, 0.9, 0.2)


def pag(model):
    return use(nodes_pag.PerturbedAttentionGuidance, model, 3.0)


def skip_layer(model):
    return use(nodes_sd3.SkipLayerGuidanceSD3, model, "1", 3.0, 0.0, 1.0)


def zero_snr(model):
    return use(nodes_model_advanced.ModelSamplingDiscrete, model, "v_prediction", True)


def shift_sd3(model):
    return use(nodes_model_advanced.ModelSamplingSD3, model, 9.0)


def shift_flux(model):
    return use(nodes_model_advanced.ModelSamplingFlux, model, 1.5, 0.5, 1024, 1024)


def rescale(model):
    return use(nodes_model_advanced.RescaleCFG, model, 0.7)


PATCHES = [
    ("sd15", free_u),
    ("sd15", pag),
    ("sd15", zero_snr),
    ("sd15", rescale),
    ("sdxl", free_u),
    ("sdxl", pag),
    ("sd3", skip_layer),
    ("sd3", shift_sd3),
    ("flux", shift_flux),
]


@pytest.mark.parametrize(("family", "patch"), PATCHES, ids=lambda each: getattr(each, "__name__", each))
def test_comfyuis_own_patches_go_before_and_after_ours(subject, family, patch):
    one = subject(family)
    theirs = one.sample(patch(one.model), rows=2)
    assert torch.isfinite(theirs).all()
    assert not torch.allclose(theirs, one.sample(rows=2))
    for both in (lambda **how: push(one, patch(one.model), **how), lambda **how: patch(push(one, **how))):
        assert torch.equal(one.sample(both(strength=0.0), rows=2), theirs)
        steered = one.sample(both(), rows=2)
        assert torch.isfinite(steered).all()
        assert not torch.allclose(steered, theirs)
    assert torch.equal(one.sample(patch(one.model), rows=2), theirs), "something was left behind"


def test_what_is_recorded_is_not_spoiled_by_patches_that_write_in_place(sd15):
    """FreeU multiplies what it is handed; the recorder was handed the same tensor before."""
    alone, before = Recorder([0.0]), Recorder([0.0])
    sd15.sample(add_tap(sd15.model, "mid", alone))
    sd15.sample(free_u(add_tap(sd15.model, "mid", before)))
    assert torch.equal(before.take(0)[0], alone.take(0)[0])


def test_an_update_is_the_blocks_own_before_free_u(sd15):
    log, plain = Log(), Log()
    sd15.sample(add_tap(sd15.model, "mid:update", plain), steps=1)
    sd15.sample(free_u(add_tap(sd15.model, "mid:update", log)), steps=1)
    assert torch.equal(log.calls[0][2], plain.calls[0][2])


@pytest.mark.parametrize(("family", "patch"), [("sd15", pag), ("sd3", skip_layer)])
def test_a_guidances_further_calls_are_not_what_is_recorded(subject, family, patch):
    """They come at the same noise level, after the ordinary call, and see the model with a part switched off."""
    one, log = subject(family), Log()
    recorder = Recorder(_levels(one))
    one.sample(patch(add_tap(add_tap(one.model, one.site, log), one.site, recorder)))
    ordinary = [call for call in log.calls if len(call[1]) == 2]
    assert len(ordinary) == 4
    assert len(log.calls) > 4, "the guidance made no call of its own"
    tokens, progress = recorder.take(0)
    assert torch.equal(progress, _levels(one))
    for found, (_, cond, h) in zip(tokens, ordinary, strict=True):
        row = h[cond.index(True)]
        assert torch.equal(found, row.flatten(1).T if row.ndim == 3 else row)


def _levels(one):
    sigmas = comfy.samplers.KSampler(one.model, steps=4, device="cpu", sampler="euler", scheduler="normal").sigmas[:-1]
    return schedule_labels(one.model.get_model_object("model_sampling"), sigmas)[2]


@pytest.fixture
def control_net(tiny_models):
    """A ControlNet for the tiny SD1.5, of ComfyUI's own classes."""
    config = {key: value for key, value in tiny_models.SD15_UNET.items() if key != "out_channels"}
    config |= tiny_models.HEADS | {"hint_channels": 3, "dtype": torch.float32}
    config.pop("transformer_depth_output")
    network = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.manual_cast)
    tiny_models.seed_weights(network, 11)
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(network.eval(), load_device=device, manual_cast_dtype=None)


def controlled(subject, control_net, strength=0.5):
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    apply = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply(subject.positive, subject.negative, control_net, hint, strength, 0.0, 1.0)
    return {"positive": positive, "negative": negative}


def test_steering_goes_with_a_control_net(sd15, control_net):
    prompts = controlled(sd15, control_net)
    base = sd15.sample(**prompts)
    assert not torch.allclose(base, sd15.sample())
    assert torch.equal(sd15.sample(push(sd15, strength=0.0), **prompts), base)
    assert not torch.allclose(sd15.sample(push(sd15), **prompts), base)
    assert torch.equal(sd15.sample(**prompts), base)


def test_mid_holds_the_control_nets_share(sd15, control_net):
    """What the decoder gets is the middle block's output and the ControlNet's residual; that is what a tap sees."""
    log, middle, residual = Log(), [], []
    handles = [
        sd15.model.model.diffusion_model.middle_block[-1].register_forward_hook(
            lambda module, args, out: middle.append(out.clone())
        ),
        control_net.control_model.register_forward_hook(
            lambda module, args, out: residual.append(out["middle"][0].clone())
        ),
    ]
    try:
        sd15.sample(add_tap(sd15.model, "mid", log), steps=2, **controlled(sd15, control_net))
    finally:
        for handle in handles:
            handle.remove()
    assert len(log.calls) == len(middle) == len(residual) == 2
    for (_, _, h), own, added in zip(log.calls, middle, residual, strict=True):
        assert float(added.abs().max()) > 0
        torch.testing.assert_close(h, own + 0.5 * added, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_little_memory_changes_no_picture(subject, family, monkeypatch):
    """Weights that stay off the device are cast as they are needed; then all is unloaded and loaded again."""
    one = subject(family)
    expected = one.sample(push(one), rows=2)
    comfy.model_management.unload_all_models()
    with monkeypatch.context() as patched:
        patched.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState.NO_VRAM)
        # On a CPU ComfyUI loads all it has, whatever it was told.
        patched.setattr(comfy.model_management, "is_device_cpu", lambda device: False)
        low = one.sample(push(one), rows=2)
        assert one.model.model.model_lowvram
    torch.testing.assert_close(low, expected, rtol=1e-4, atol=1e-3)
    comfy.model_management.unload_all_models()
    assert torch.equal(one.sample(push(one), rows=2), expected)
    assert not one.model.model.model_lowvram


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "first"), [("sd15", "theirs"), ("sd15", "ours"), ("sd3", "theirs"), ("flux", "theirs")]
)
def test_a_compiled_model_is_steered_as_another(subject, family, first):
    one, block = subject(family), "mid" if family == "sd15" else "double.0"
    widths = {site.name: site.channels for site in sites_of(one.model)}

    def compiled(model):
        return use(nodes_torch_compile.TorchCompileModel, model, "eager")

    def ours(model, strength, log):
        for site in (block, f"{block}:update", "eps"):
            vector = torch.randn(widths[site.partition(":")[0]], generator=torch.Generator().manual_seed(5))
            model = add_tap(add_tap(model, site, AddDirection(vector, strength=strength)), site, log)
        return model

    def both(strength, log):
        if first == "theirs":
            return ours(compiled(one.model), strength, log)
        return compiled(ours(one.model, strength, log))

    expected, base, log = one.sample(ours(one.model, 3.0, Log()), steps=2), one.sample(steps=2), Log()
    assert not torch.allclose(expected, base)
    torch.testing.assert_close(one.sample(both(3.0, log), steps=2), expected, rtol=1e-4, atol=1e-3)
    assert len(log.calls) == 3 * 2
    torch.testing.assert_close(one.sample(both(0.0, Log()), steps=2), base, rtol=1e-4, atol=1e-3)

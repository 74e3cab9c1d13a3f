from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.core.sites import Site
from hapax.core.steering import Scope

SHAPE = GuidanceShape("mid", channels=6, context=10, hidden=8)


def step_for(make_step, h, **labels):
    generator = torch.Generator().manual_seed(5)
    step = make_step(h, **labels)
    x = torch.randn(len(h), 4, *step.grid, generator=generator)
    return replace(step, x=x, context=torch.randn(len(h), 3, 10, generator=generator))


def trained(shape: GuidanceShape = SHAPE, **options) -> GuidanceModule:
    """A module whose last layer is no longer zero."""
    module = GuidanceModule(shape, **options).requires_grad_(False)
    module.last.weight.normal_(generator=torch.Generator().manual_seed(0))
    return module


def activations(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 6, 4, 4, generator=torch.Generator().manual_seed(1))


def test_untrained_changes_nothing(make_step):
    h = activations()
    assert torch.equal(GuidanceModule(SHAPE)(h, step_for(make_step, h)), h)


def test_strength_zero_returns_the_activations_themselves(make_step):
    h = activations()
    assert trained(strength=0.0)(h, step_for(make_step, h)) is h


def test_outside_its_window_it_is_not_there(make_step):
    h, module = activations(), trained(scope=Scope(0.2, 0.4))
    assert module(h, step_for(make_step, h, progress=0.5)) is h
    assert not torch.equal(module(h, step_for(make_step, h, progress=0.3)), h)


def test_rows_under_the_negative_prompt_stay_bit_equal(make_step):
    h = activations()
    edited = trained()(h, step_for(make_step, h, cond=[True, False, True, False]))
    assert torch.equal(edited[1::2], h[1::2])
    assert not torch.equal(edited[::2], h[::2])


def test_rows_do_not_see_each_other(make_step):
    h, module = activations(), trained()
    step = step_for(make_step, h, progress=[0.1, 0.3, 0.5, 0.7])
    whole = module(h, step)
    for row in range(4):
        part = {name: getattr(step, name)[row : row + 1] for name in ("progress", "cond", "sample", "x", "context")}
        torch.testing.assert_close(module(h[row : row + 1], replace(step, **part)), whole[row : row + 1])


def test_strength_is_the_factor_of_the_residual(make_step):
    h = activations()
    step = step_for(make_step, h)
    change = trained()(h, step) - h
    torch.testing.assert_close(trained(strength=-0.5)(h, step) - h, -0.5 * change)


def test_a_tap_has_a_strength_and_a_scope_of_its_own(make_step):
    h, module = activations(), trained(scope=Scope(0.2, 0.4))
    step = step_for(make_step, h, progress=0.5)
    edited = module.tap(0.5, Scope(0.4, 0.6))(h, step)
    assert torch.equal(edited, trained(strength=0.5)(h, step))
    assert module(h, step) is h


def test_it_follows_the_scale_of_the_activations(make_step):
    h = activations()
    step = step_for(make_step, h)
    torch.testing.assert_close(trained()(1000 * h, step), 1000 * trained()(h, step), rtol=1e-4, atol=1e-2)


def test_time_and_text_matter(make_step):
    h, module = activations(), trained()
    step = step_for(make_step, h)
    later, other = step_for(make_step, h, progress=0.9), replace(step, context=step.context.flip(0))
    assert not torch.allclose(module(h, step), module(h, later))
    assert not torch.allclose(module(h, step), module(h, other))


def test_tokens_on_a_grid_are_the_same_as_a_picture(make_step):
    h, module = activations(), trained()
    tokens = h.flatten(2).transpose(1, 2)
    step = step_for(make_step, h)
    torch.testing.assert_close(module(tokens, step).transpose(1, 2).unflatten(2, (4, 4)), module(h, step))


def test_at_eps_it_reads_what_the_denoiser_reads(make_step):
    h, module = activations(), trained(replace(SHAPE, site="eps", depth=3, inputs=4))
    step = step_for(make_step, h)
    assert not torch.allclose(module(h, step), module(h, replace(step, x=step.x.flip(0))))


def test_low_precision_goes_in_and_out(make_step):
    h = activations().bfloat16()
    assert trained()(h, step_for(make_step, h)).dtype == torch.bfloat16


def test_the_first_weights_come_from_the_seed_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    weights = [GuidanceModule(SHAPE, seed=seed).trunk[0].weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, context=0), replace(SHAPE, site="eps", depth=3, inputs=4)])
def test_the_shape_counts_the_parameters(shape):
    assert shape.parameters == sum(p.numel() for p in GuidanceModule(shape).parameters())


def test_the_widest_within_five_percent_is_chosen(tiny_pipelines):
    unet = tiny_pipelines.unet(block_out_channels=(32, 64))
    base, site = sum(p.numel() for p in unet.parameters()), Site("mid", "output", 64, "img")
    shape = GuidanceShape.fitting(site, unet, context=16)
    assert shape.parameters <= 0.05 * base < replace(shape, hidden=shape.hidden + 8).parameters
    with pytest.raises(HapaxError, match="more than 5 %"):
        GuidanceShape.fitting(site, unet, context=16, hidden=128)


def test_another_models_activations_are_refused(make_step):
    h = activations()
    with pytest.raises(HapaxError, match="fits 6 channels at mid"):
        GuidanceModule(SHAPE)(h[:, :5], step_for(make_step, h))
    with pytest.raises(HapaxError, match="text of width 10"):
        GuidanceModule(SHAPE)(h, make_step(h))


def test_a_strength_that_is_no_number_is_refused():
    with pytest.raises(HapaxError, match="strength is nan"):
        GuidanceModule(SHAPE, strength=float("nan"))

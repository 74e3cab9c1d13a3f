from __future__ import annotations

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.backends.hooks import Rows
from hapax.core.errors import HapaxError
from hapax.core.taps import from_tokens, to_tokens

X, TEXT = torch.randn(3, 4, 16, 16), torch.randn(3, 7, 16)


@pytest.fixture(scope="module")
def backend(tiny_pipelines):
    return DiffusersBackend(tiny_pipelines.build("sd1"))


def ignore(h, step):
    return None


@pytest.mark.parametrize("samples", [[0], [4, 2, 9]])
def test_rows_of_a_guided_batch_have_the_negative_prompts_half_first(samples):
    rows, plain = Rows.of(samples, guided=True), Rows.of(samples, guided=False)
    n = len(samples)
    assert rows.sample.tolist() == samples * 2
    assert rows.cond.tolist() == [False] * n + [True] * n
    assert plain.sample.tolist() == samples
    assert plain.cond.tolist() == [True] * n


def test_calls_of_ones_own_are_labelled_and_carry_gradients(backend):
    """Training and probing call the denoiser themselves; gradients reach what a tap adds."""
    steps, delta = [], torch.zeros(16, requires_grad=True)
    rows = Rows(torch.tensor([5, 6, 7]), torch.tensor([True, False, True]))
    taps = {
        "mid": lambda h, step: from_tokens(to_tokens(h) + delta, h),
        "eps": lambda h, step: steps.append(step),
    }
    with backend.tapped(taps, rows):
        (eps,) = backend.denoiser(X, torch.tensor([0, 500, 999]), TEXT, return_dict=False)
    eps.square().mean().backward()
    assert delta.grad is not None
    assert delta.grad.abs().sum() > 0
    (step,) = steps
    assert step.sample.tolist() == [5, 6, 7]
    assert step.cond.tolist() == [True, False, True]
    assert step.progress.tolist() == pytest.approx([1, 1 - 500 / 999, 0])
    assert torch.equal(step.x, X)
    assert torch.equal(step.context, TEXT)


@pytest.mark.parametrize("timestep", [7, torch.tensor(7), torch.tensor([7]), torch.tensor([7.0] * 3)])
def test_one_timestep_stands_for_all_rows(backend, timestep):
    steps = []
    with backend.tapped({"eps": lambda h, step: steps.append(step)}, Rows.of([0, 1, 2], guided=False)):
        backend.denoiser(X, timestep, encoder_hidden_states=TEXT, return_dict=False)
    assert steps[0].timestep.tolist() == [7, 7, 7]


def test_a_call_with_other_rows_than_announced_is_refused(backend):
    with backend.tapped({"mid": ignore}, Rows.of([0], guided=True)):
        with pytest.raises(HapaxError, match="called with 3 rows, but 2 were announced"):
            backend.denoiser(X, 1, TEXT, return_dict=False)


def test_a_call_that_returns_no_tuple_is_refused(backend):
    with backend.tapped({"eps": ignore}, Rows.of([0, 1, 2], guided=False)):
        with pytest.raises(HapaxError, match=r"UNet2DConditionOutput, not a tuple; call it .*"):
            backend.denoiser(X, 1, TEXT)


def test_a_block_class_of_unknown_outputs_is_refused(tiny_pipelines):
    """An image stream is picked by knowing the block class, never by guessing an index."""
    backend = DiffusersBackend(tiny_pipelines.build("sd3"))
    block = backend.denoiser.transformer_blocks[1]
    block.__class__ = type("NewBlock", (type(block),), {})
    with pytest.raises(HapaxError, match=r"double.1 is a NewBlock, whose outputs are unknown here"):
        backend.sample("tea", [0], {"double.1": ignore}, steps=1, height=32, width=32)

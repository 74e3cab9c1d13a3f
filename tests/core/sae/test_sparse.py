"""Sparse arithmetic against its dense form: the same selection, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hapax.core.sae import MatryoshkaSAE
from hapax.core.sae.sparse import Active, batch_topk, sparse_decode, sparse_encode

B, D, L = 6, 5, 9


def problem(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x, b_dec, W_enc, b_enc, W_dec = draw(B, D), draw(D), draw(L, D), draw(L), draw(L, D)
    active = batch_topk((x - b_dec) @ W_enc.T + b_enc, 14)
    return x, active, tuple(p.requires_grad_() for p in (b_dec, W_enc, b_enc, W_dec))


def sparse_form(x, active, b_dec, W_enc, b_enc, W_dec):
    values = ((x - b_dec) @ W_enc.T + b_enc).detach().flatten()[active.flat]
    z = sparse_encode(x, b_dec, W_enc, b_enc, values, active)
    return sparse_decode(z, W_dec, active, active.rows, B)


def dense_form(x, active, b_dec, W_enc, b_enc, W_dec):
    mask = torch.zeros(B * L, dtype=torch.float64)
    mask[active.flat] = 1
    return (((x - b_dec) @ W_enc.T + b_enc) * mask.view(B, L)) @ W_dec


def test_gradients_pass_gradcheck():
    x, active, parameters = problem()
    assert torch.autograd.gradcheck(lambda *p: sparse_form(x, active, *p), parameters)


def test_values_and_gradients_equal_the_dense_form():
    x, active, parameters = problem(1)
    sparse, dense = (form(x, active, *parameters) for form in (sparse_form, dense_form))
    torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-12)
    g = torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for a, b in zip(*(torch.autograd.grad(form, parameters, g) for form in (sparse, dense)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_matryoshka_objective_has_the_dense_forms_gradients():
    sae = MatryoshkaSAE(D, L, (2, 5, L), 2, seed=3).double().requires_grad_()
    x = torch.randn(B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    pre = sae.pre_activations(x)
    active = batch_topk(pre.detach(), 2 * B)
    z = sparse_encode(x, sae.b_dec, sae.W_enc, sae.b_enc, pre.detach().flatten()[active.flat], active)
    errors = sae.prefix_errors(x, z, active)
    mask = torch.zeros(B * L, dtype=torch.float64)
    mask[active.flat] = 1
    z = pre * mask.view(B, L)
    dense = [sae.b_dec - x] + [sae.decode(z, level) - x for level in range(3)]
    for a, b in zip(errors, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    losses = (torch.stack([e.square().mean() for e in form]).mean() for form in (errors, dense))
    for a, b in zip(*(torch.autograd.grad(loss, list(sae.parameters())) for loss in losses), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_inactive_decoder_rows_are_not_touched():
    x, active, (b_dec, W_enc, b_enc, W_dec) = problem(5)
    idle = torch.ones(L, dtype=torch.bool)
    idle[active.cols] = False
    assert idle.any()
    W_dec = W_dec.detach().masked_fill(idle[:, None], float("nan")).requires_grad_()
    out = sparse_form(x, active, b_dec, W_enc, b_enc, W_dec)
    gradients = torch.autograd.grad(out.sum(), (b_dec, W_enc, b_enc, W_dec))
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[1][idle].any()
    assert not gradients[3][idle].any()


def test_no_active_pair_gives_zeros():
    active = Active(torch.zeros(0, dtype=torch.long), (B, L))
    z, W = torch.zeros(0, requires_grad=True), torch.randn(L, D, requires_grad=True)
    out = sparse_decode(z, W, active, active.rows, B)
    out.sum().backward()
    assert out.shape == (B, D)
    assert not out.any()
    assert W.grad is not None
    assert not W.grad.any()


def one_loud_token(pre):
    pre[3] += 10
    return pre


def few_positive(pre):
    return pre - 3.5


@pytest.mark.parametrize("change", [lambda pre: pre, one_loud_token, few_positive, lambda pre: -pre.abs()])
@pytest.mark.parametrize(("shape", "n"), [((7, 11), 5), ((200, 300), 900), ((200, 300), 1), ((64, 500), 40000)])
def test_batch_topk_is_the_flat_topk_of_the_positive_entries(change, shape, n):
    pre = change(torch.randn(shape, generator=torch.Generator().manual_seed(6)))
    found = batch_topk(pre, n)
    values, flat = pre.relu().flatten().topk(min(n, pre.numel()))
    assert torch.equal(found.flat, flat[values > 0].sort().values)
    assert torch.equal(found.rows * shape[1] + found.cols, found.flat)


def test_batch_topk_keeps_exactly_n_of_equal_entries():
    pre = torch.ones(200, 300)
    pre[5, 7] = 2.0
    found = batch_topk(pre, 100)
    assert len(found.flat) == 100
    assert 5 * 300 + 7 in found.flat
    assert torch.equal(found.flat, found.flat.unique())

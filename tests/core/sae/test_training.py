"""Training: what is recovered, what repeats, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sae import MatryoshkaSAE, SAEConfig, sae_metrics, train_sae
from hapax.core.sae.training import auxiliary_loss, make_orthogonal

SMALL = SAEConfig(16, 64, (16, 64), 4, lr=3e-3, batch_size=128, epochs=3, aux_k=16, dead_after=5)


def sparse_features(n: int, d: int, n_features: int, seed: int) -> torch.Tensor:
    """Sparse sums of random unit features, off centre, of norms far from sqrt(d): `[n, d]`."""
    world = torch.Generator().manual_seed(9)
    directions = torch.nn.functional.normalize(torch.randn(n_features, d, generator=world), dim=1)
    frequency = torch.arange(1, n_features + 1) ** -0.7
    frequency *= 4 / frequency.sum()
    draw = torch.Generator().manual_seed(seed)
    z = (torch.rand(n, n_features, generator=draw) < frequency) * (1 + torch.rand(n, n_features, generator=draw))
    return 7 * (z @ directions + 0.5 + 0.05 * torch.randn(n, d, generator=draw))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return sparse_features(4096, 16, 40, seed=1)


@pytest.fixture(scope="module")
def trained(tokens):
    return train_sae(tokens, SMALL, held_out=sparse_features(4096, 16, 40, seed=2))


def tree(n: int, seed: int):
    """Toy of RAIGen 5.1: 4 parents with 4 exclusive children each, as tokens `[n, 24]`, truth and frequency."""
    directions = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(7)))[0][:20]
    parent, child = torch.tensor([0.5, 0.35, 0.25, 0.15]), torch.tensor([0.3, 0.15, 0.1, 0.05])
    draw = torch.Generator().manual_seed(seed)
    on = torch.rand(n, 4, generator=draw) < parent
    which, above = torch.rand(n, 4, 1, generator=draw), child.cumsum(0)
    kids = (which < above) & (which >= above - child) & on[:, :, None]
    truth = torch.cat([on, kids.flatten(1)], 1).float()
    z = truth * (1 + 0.2 * torch.randn(n, 20, generator=draw))
    return z @ directions, truth, torch.cat([parent, (parent[:, None] * child).flatten()])


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    return a.T @ b / (a.norm(dim=0)[:, None] * b.norm(dim=0)).clamp(min=1e-9)


def test_the_toy_tree_is_recovered():
    tokens, _, frequency = tree(20000, seed=1)
    config = SAEConfig(24, 32, (4, 32), 2, lr=3e-3, batch_size=256, epochs=15, aux_k=8)
    sae = train_sae(tokens, config).sae
    fresh, truth, _ = tree(20000, seed=2)
    z = sae.encode(fresh)
    match, latent = correlation(truth, z).max(1)
    assert len(latent.unique()) == 20
    assert match[frequency < 0.03].min() > 0.9
    rate = (z > 0).float().mean(0)[latent]
    ranks = torch.stack([v.argsort().argsort().double() for v in (rate, frequency)])
    # The paper reports a Spearman correlation of about .991 for its tree.
    assert torch.corrcoef(ranks)[0, 1] > 0.98


def test_four_latents_a_token_explain_more_than_four_principal_components(trained):
    coarse, whole = trained.metrics["fvu"]
    x = sparse_features(4096, 16, 40, seed=2)
    variances = torch.linalg.svdvals(x - x.mean(0)).square()
    assert whole < float(variances[4:].sum() / variances.sum())
    assert whole < coarse < 1


def test_l0_is_k_on_fresh_tokens(trained):
    z = trained.sae.encode(sparse_features(8192, 16, 40, seed=3))
    assert float((z > 0).sum(1).float().mean()) == pytest.approx(SMALL.k, rel=0.02)


def test_decoder_rows_have_unit_norm(trained):
    torch.testing.assert_close(trained.sae.W_dec.norm(dim=1), torch.ones(64), rtol=0, atol=1e-6)


def test_the_encoder_bias_is_trained(trained):
    assert trained.sae.b_enc.abs().max() > 1e-3


def test_scale_and_units(trained, tokens):
    assert float(trained.sae.scale * tokens.norm(dim=1).mean()) == pytest.approx(4.0, rel=0.02)
    assert (trained.sae.b_dec - tokens.mean(0)).norm() < 0.3 * tokens.mean(0).norm()


def test_a_change_of_units_changes_nothing_else(tokens, trained):
    small = train_sae(tokens / 1024, SMALL, held_out=sparse_features(4096, 16, 40, seed=2) / 1024)
    assert small.metrics["fvu"] == pytest.approx(trained.metrics["fvu"], rel=1e-3)
    assert float(small.sae.scale / trained.sae.scale) == pytest.approx(1024, rel=1e-4)


def test_metrics_are_those_of_the_held_out_tokens(trained):
    found = trained.metrics
    assert found["held_out"] is True
    assert found["steps"] == 3 * 4096 // 128
    measured = sae_metrics(trained.sae, sparse_features(4096, 16, 40, seed=2))
    assert {name: found[name] for name in measured} == measured
    assert json.loads(json.dumps(found)) == found


def test_meta_says_how_it_was_trained(trained):
    assert trained.sae.meta["training"]["lr"] == 3e-3
    assert trained.sae.meta["training"]["steps"] == 96
    assert not any(p.requires_grad for p in trained.sae.parameters())


def test_equal_seeds_give_equal_bits(tokens):
    one, two, other = (train_sae(tokens, replace(SMALL, seed=seed)) for seed in (5, 5, 6))
    for name, tensor in one.sae.state_dict().items():
        assert torch.equal(tensor, two.sae.state_dict()[name]), name
    assert not torch.equal(one.sae.W_dec, other.sae.W_dec)
    assert one.metrics == two.metrics


def test_training_works_where_gradients_are_off(tokens):
    plain = train_sae(tokens, replace(SMALL, epochs=1)).sae
    with torch.inference_mode():
        inside = train_sae(tokens.clone(), replace(SMALL, epochs=1), held_out=tokens[:50].clone()).sae
    with torch.no_grad():
        without = train_sae(tokens, replace(SMALL, epochs=1)).sae
    assert torch.equal(plain.W_dec, inside.W_dec)
    assert torch.equal(plain.W_dec, without.W_dec)
    assert not inside.W_dec.is_inference()


def test_the_global_generator_plays_no_part(tokens):
    state = torch.get_rng_state()
    train_sae(tokens[:512], replace(SMALL, epochs=1))
    assert torch.equal(state, torch.get_rng_state())


class Chunks:
    """Tokens that can be read again and again."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def __iter__(self):
        return iter(self.tokens.split(100))


def test_an_iterable_trains_like_a_tensor(tokens, trained):
    found = train_sae(Chunks(tokens), SMALL, held_out=sparse_features(4096, 16, 40, seed=2))
    assert found.metrics["steps"] == trained.metrics["steps"]
    assert found.metrics["fvu"] == pytest.approx(trained.metrics["fvu"], abs=0.03)


def test_an_iterator_is_one_epoch(tokens):
    found = train_sae(iter(tokens.split(100)), SMALL)
    assert found.metrics["steps"] == 4096 // 128
    assert found.metrics["held_out"] is False


def test_fewer_tokens_than_a_batch_still_train(tokens):
    assert train_sae(tokens[:100], SMALL).metrics["steps"] == 3


def test_half_precision_tokens_train_in_fp32(tokens):
    sae = train_sae(tokens.half(), replace(SMALL, epochs=1)).sae
    assert {tensor.dtype for tensor in sae.state_dict().values()} == {torch.float32}


def test_bf16_products_keep_fp32_weights_and_quality(tokens, trained):
    found = train_sae(tokens, replace(SMALL, bf16=True), held_out=sparse_features(4096, 16, 40, seed=2))
    assert found.sae.W_enc.dtype == found.sae.threshold.dtype == torch.float32
    assert found.metrics["fvu"] == pytest.approx(trained.metrics["fvu"], abs=0.03)


def test_the_auxiliary_loss_keeps_latents_alive():
    tokens = sparse_features(8192, 32, 200, seed=1)
    config = SAEConfig(32, 256, (64, 256), 4, lr=1e-2, batch_size=256, epochs=10, dead_after=10)
    dead = train_sae(tokens, config).metrics["dead"][-1]
    dead_without = train_sae(tokens, replace(config, aux_coefficient=0.0)).metrics["dead"][-1]
    assert dead_without > 0.1
    assert dead < dead_without / 4


def test_the_auxiliary_loss_is_its_formula_and_moves_only_the_dead():
    sae = MatryoshkaSAE(6, 12, (12,), 2).requires_grad_()
    draw = torch.Generator().manual_seed(1)
    x, residual = torch.randn(20, 6, generator=draw), torch.randn(20, 6, generator=draw).requires_grad_()
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[1, 4, 5, 9]] = True
    loss = auxiliary_loss(sae, x, residual, dead, aux_k=2)
    expected = torch.zeros(20, 6)
    for t in range(20):
        a = sae.pre_activations(x[t : t + 1])[0].relu() * dead
        top = a.topk(2).indices
        expected[t] = a[top] @ sae.W_dec[top]
    torch.testing.assert_close(loss, (expected - residual).square().mean())
    *gradients, of_residual = torch.autograd.grad(loss, [sae.W_enc, sae.W_dec, sae.b_enc, residual], allow_unused=True)
    assert of_residual is None
    for gradient in gradients:
        assert not gradient[~dead].any()
        assert gradient[dead].any()
    assert float(auxiliary_loss(sae, x, residual, torch.zeros_like(dead), 2)) == 0.0


def test_the_decoder_gradient_loses_only_its_part_along_the_rows():
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    W.grad = torch.tensor([[3.0, 4.0], [5.0, 0.0]])
    make_orthogonal(W)
    torch.testing.assert_close(W.grad, torch.tensor([[0.0, 4.0], [5 - 3 * 0.6, -3 * 0.8]]))


def test_progress_counts_the_steps(tokens):
    calls = []
    train_sae(tokens, replace(SMALL, epochs=2), progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == list(range(1, 65))
    assert {call[1] for call in calls} == {64}
    assert [call[2]["epoch"] for call in calls] == [0] * 32 + [1] * 32
    assert calls[-1][2]["fvu"] < calls[0][2]["fvu"]
    assert set(calls[0][2]) == {"epoch", "loss", "fvu", "dead"}


def test_progress_of_a_stream_learns_its_length(tokens):
    totals = []
    train_sae(Chunks(tokens[:1024]), replace(SMALL, epochs=2), progress=lambda _, n, __: totals.append(n))
    assert totals == [None] * 8 + [16] * 8


def test_progress_can_interrupt(tokens):
    steps = count(1)

    def stop(*_):
        if next(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sae(tokens, SMALL, progress=stop)
    assert next(steps) == 4


def with_bad(tokens, value):
    tokens = tokens.clone()
    tokens[[3, 8], 0] = value
    return tokens


@pytest.mark.parametrize(
    ("change", "held_out", "sentence"),
    [
        (lambda t: t[:15], None, "There are 15 tokens to train on, but at least 16"),
        (lambda t: t[:0], None, "There are 0 tokens"),
        (lambda t: iter([]), None, "There are 0 tokens"),
        (lambda t: t[:, :12], None, "12 channels, but d_in is 16"),
        (lambda t: with_bad(t, float("nan")), None, "2 of 4096 tokens"),
        (lambda t: with_bad(t, float("inf")), None, "2 of 4096 tokens"),
        (lambda t: t * 0, None, "All 1024 tokens are zero"),
        (lambda t: t.long(), None, "floating-point"),
        (lambda t: t, lambda t: t[:1], "There are 1 held-out tokens"),
        (lambda t: t, lambda t: t[:, :3], "3 channels"),
        (lambda t: t, lambda t: with_bad(t, float("nan")), "2 of 4096 tokens"),
    ],
)
def test_bad_tokens_are_refused(tokens, change, held_out, sentence):
    with pytest.raises(HapaxError, match=sentence):
        train_sae(change(tokens), SMALL, held_out=held_out and held_out(tokens))

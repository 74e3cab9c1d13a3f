"""MatryoshkaSAE: encoding, decoding by prefixes and by rows, units."""

from __future__ import annotations

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sae import MatryoshkaSAE


@pytest.fixture
def sae() -> MatryoshkaSAE:
    """An SAE with nothing at zero."""
    sae = MatryoshkaSAE(16, 64, (8, 24, 64), 6, seed=1)
    generator = torch.Generator().manual_seed(2)
    sae.b_dec.copy_(torch.randn(16, generator=generator))
    sae.b_enc.copy_(0.2 * torch.randn(64, generator=generator))
    sae.threshold.fill_(0.7)
    return sae


@pytest.fixture
def x() -> torch.Tensor:
    return 3 * torch.randn(50, 16, generator=torch.Generator().manual_seed(3))


def test_encode_is_its_formula(sae, x):
    a = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    z = sae.encode(x)
    torch.testing.assert_close(z, a * (a > 0.7))
    assert 0 < (z > 0).float().mean() < 1
    assert not ((z > 0) & (z <= 0.7)).any()


def test_decode_is_its_formula(sae, x):
    z = sae.encode(x)
    torch.testing.assert_close(sae.decode(z), z @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(sae(x), sae.decode(z))


def test_the_bias_of_the_encoder_counts(sae, x):
    before = sae.encode(x)
    sae.b_enc[5] += 100
    after = sae.encode(x)
    assert (after[:, 5] > before[:, 5]).all()
    assert torch.equal(after[:, :5], before[:, :5])


def test_prefixes_nest(sae, x):
    z = sae.encode(x)
    for level, size in enumerate(sae.prefix_sizes):
        cut = z.clone()
        cut[:, size:] = 0
        torch.testing.assert_close(sae.decode(z, level), sae.decode(cut))
    assert torch.equal(sae.decode(z, 2), sae.decode(z))


def test_rows_are_columns_of_the_whole(sae, x):
    rows = torch.tensor([63, 0, 17, 17])
    z = sae.encode_rows(x, rows)
    torch.testing.assert_close(z, sae.encode(x)[:, rows])
    assert z.any()
    torch.testing.assert_close(sae.decode_rows(z, rows), z @ sae.W_dec[rows])


def test_a_subset_encodes_and_decodes_its_rows(sae, x):
    rows = torch.tensor([63, 0, 17])
    part = sae.subset(rows)
    torch.testing.assert_close(part.encode(x), sae.encode_rows(x, rows))
    assert torch.equal(part.W_dec, sae.W_dec[rows])
    part.W_dec.zero_()
    assert sae.W_dec[rows].any()


def test_all_rows_decode_to_the_whole_without_bias(sae, x):
    rows, z = torch.arange(64), sae.encode(x)
    torch.testing.assert_close(sae.decode_rows(z, rows) + sae.b_dec, sae.decode(z))


def test_unscale_gives_the_same_sae_in_other_units(sae, x):
    z, x_hat = sae.encode(x), sae.decode(sae.encode(x))
    sae.unscale(torch.tensor(4.0))
    torch.testing.assert_close(sae.encode(x / 4), z / 4)
    torch.testing.assert_close(sae(x / 4), x_hat / 4)
    assert float(sae.scale) == 4.0


def test_half_precision_tokens_give_fp32(sae, x):
    z = sae.encode(x.half())
    assert z.dtype == sae.threshold.dtype == torch.float32
    torch.testing.assert_close(z, sae.encode(x.half().float()))


def test_starts_with_unit_rows_tied_and_reproducibly():
    sae, again, other = (MatryoshkaSAE(16, 64, (64,), 6, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    assert torch.equal(sae.W_enc, sae.W_dec)
    assert torch.equal(sae.W_dec, again.W_dec)
    assert not torch.equal(sae.W_dec, other.W_dec)
    assert not any(p.requires_grad for p in sae.parameters())


def test_making_one_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    MatryoshkaSAE(16, 64, (64,), 6)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda sae: sae.encode(torch.zeros(3, 15)), "15 channels, but this SAE reads 16"),
        (lambda sae: sae.encode_rows(torch.zeros(3, 17), torch.tensor([0])), "17 channels"),
        (lambda sae: sae.decode(torch.zeros(3, 63)), "63 latents, but this SAE has 64"),
    ],
)
def test_wrong_widths_are_refused(sae, call, sentence):
    with pytest.raises(HapaxError, match=sentence):
        call(sae)

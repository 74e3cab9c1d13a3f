"""SAELens reads what `export_saelens` writes and computes the same; needs `pip install hapax-diffusion[parity]`."""

from __future__ import annotations

import pytest
import torch
from hapax.core.sae import MatryoshkaSAE, calibrate_threshold, export_saelens, load_saelens

sae_lens = pytest.importorskip("sae_lens", reason="SAELens is not installed: its parity is NOT checked")


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(200, 24, generator=torch.Generator().manual_seed(1)) + 2


@pytest.fixture
def sae(x) -> MatryoshkaSAE:
    sae = MatryoshkaSAE(24, 96, (16, 96), 5, seed=2)
    generator = torch.Generator().manual_seed(3)
    for tensor in (sae.W_enc, sae.b_enc, sae.b_dec):
        tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    sae.meta = {"site": "mid"}
    calibrate_threshold(sae, x)
    return sae


def test_saelens_encodes_and_decodes_the_same(sae, x, tmp_path):
    export_saelens(sae, tmp_path)
    lens = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        z = lens.encode(x)
        x_hat = lens.decode(z)
    assert 0 < (z > 0).float().mean() < 0.2
    torch.testing.assert_close(z, sae.encode(x))
    torch.testing.assert_close(x_hat, sae(x))


def test_saelens_keeps_the_provenance(sae, tmp_path):
    export_saelens(sae, tmp_path)
    metadata = sae_lens.SAE.load_from_disk(tmp_path).cfg.metadata
    assert metadata["hapax"]["prefix_sizes"] == [16, 96]
    assert metadata["hapax"]["meta"] == {"site": "mid"}


def test_what_saelens_saves_again_comes_back(sae, x, tmp_path):
    export_saelens(sae, tmp_path / "ours")
    sae_lens.SAE.load_from_disk(tmp_path / "ours").save_model(tmp_path / "theirs")
    again = load_saelens(tmp_path / "theirs")
    assert (again.k, again.prefix_sizes, again.meta) == (sae.k, sae.prefix_sizes, sae.meta)
    assert torch.equal(again.encode(x), sae.encode(x))

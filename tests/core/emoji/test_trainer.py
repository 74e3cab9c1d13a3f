"""The training loop: an interrupted run ends where an unbroken one does, with either optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hapax.core.emoji.muon import Muon, orthogonalized
from hapax.core.emoji.trainer import Trainer, is_inner
from torch import Tensor, nn


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 16, 4))


def train(folder: Path, muon: float, broken_at: int | None = None) -> tuple[nn.Module, list[float]]:
    model, losses = network(), []

    def loss(step: int) -> Tensor:
        if step == broken_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(step))
        error = (model(x) - x.mean((2, 3)).repeat(1, 2)).square().mean()
        losses.append(error.item())
        return error

    Trainer(model, loss, folder, steps=40, lr=1e-2, muon=muon, warmup=5, ema=0.9).run(save_every=8)
    return model, losses


@pytest.mark.parametrize("muon", [0.0, 0.02])
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, muon: float) -> None:
    whole, losses = train(tmp_path / "whole", muon)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", muon, broken_at=19)
    parts, rest = train(tmp_path / "parts", muon)
    assert rest == losses[16:]
    assert losses[-1] < 0.5 * losses[0]
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(4, 9), (64, 16), (12, 3, 3, 3)])
def test_muon_moves_every_direction_equally(shape: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    Muon([parameter], lr=0.1).step()
    rows, columns = parameter.detach().flatten(1).shape
    singular = torch.linalg.svdvals(parameter.detach().flatten(1)) / (0.1 * max(1, rows / columns) ** 0.5)
    assert float(singular.min()) > 0.8
    assert float(singular.max()) < 1.2


def test_what_is_orthogonal_stays_so() -> None:
    q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    assert float((orthogonalized(3 * q) - q).abs().max()) < 0.15


def test_muon_leaves_ends_and_vectors_alone() -> None:
    matrix, vector = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    assert is_inner("mid.proj", matrix)
    assert not is_inner("mid.bias", vector)
    assert not is_inner("text.token_embedding.weight", matrix)
    assert not is_inner("unet.conv_out.weight", matrix)

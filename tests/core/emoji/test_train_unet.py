"""The denoiser's shape: what it shows is decided in its middle block."""

from __future__ import annotations

import torch
from hapax.core.emoji.lessons import draw_times
from hapax.core.emoji.train_unet import build_unet


def test_closed_skips_stay_closed_in_training() -> None:
    unet = build_unet()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-2)
    out = unet(torch.randn(2, 8, 8, 8), torch.tensor([10, 700]), torch.randn(2, 24, 128)).sample
    out.square().mean().backward()
    optimizer.step()
    *closed, last = [resnet for block in unet.up_blocks for resnet in block.resnets]
    for resnet, own in zip(closed, (128, 128, 128), strict=True):
        for weight in (resnet.conv1.weight, resnet.conv_shortcut.weight):
            assert bool((weight[:, own:] == 0).all())
            assert bool((weight[:, :own] != 0).any())
    assert bool((last.conv1.weight != 0).all())


def test_half_of_the_times_lie_in_the_focus() -> None:
    times = draw_times(64, (0.5, 0.6), torch.Generator().manual_seed(0))
    assert int(((times >= 500) & (times < 600)).sum()) in range(34, 38)
    assert 0 <= int(times.min()) < 40
    assert 960 <= int(times.max()) < 1000

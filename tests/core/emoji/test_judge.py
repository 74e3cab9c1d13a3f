"""The judge names every rendered picture, shifted, softened or noisy, and its distance is the RMSE."""

from __future__ import annotations

import numpy as np
import pytest
from hapax.core.emoji.judge import judge
from hapax.core.emoji.render import render, render_all, shifts
from hapax.core.emoji.world import load_world

WORLD = load_world()


def test_every_kind_is_named_exactly_whatever_its_shift() -> None:
    kinds, offsets = WORLD.kinds(), shifts(WORLD)
    pictures = [render(kind, offsets[i % len(offsets)]) for i, kind in enumerate(kinds)]
    verdict = judge(np.round(np.stack(pictures) * 255).astype(np.uint8))
    assert verdict.kinds == kinds
    assert float(verdict.rmse.max()) < 1e-6


def test_distance_is_the_rmse_of_what_was_added() -> None:
    rng = np.random.default_rng(0)
    clean = render_all(WORLD)[::37].astype(float)
    noisy = np.clip(clean + rng.choice([-13, 13], clean.shape), 0, 255).astype(np.uint8)
    verdict = judge(noisy)
    assert verdict.kinds == WORLD.kinds()[::37]
    truth = np.sqrt(((noisy - clean) / 255).__pow__(2).mean((1, 2, 3)))
    assert verdict.rmse.numpy() == pytest.approx(truth, rel=1e-4)


def test_shares_count_kinds() -> None:
    kinds = [k for k in WORLD.kinds("cat")]
    verdict = judge(np.stack([np.round(render(k) * 255) for k in kinds]).astype(np.uint8))
    assert verdict.concept("cat") == 1
    assert verdict.share("black") == 0.5
    assert verdict.share("line sketch") == 0.25

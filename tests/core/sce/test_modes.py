"""Modes of the image part: planted directions come back, with their pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import diversity_modes, schur_complement_entropy


@pytest.fixture(scope="module")
def planted() -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Four prompts; every tenth picture also has a rare look along axis 7, and a weak one varies along axis 6."""
    g = torch.Generator().manual_seed(0)
    which = torch.arange(400) % 4
    text = torch.eye(8)[which]
    rare = list(range(0, 400, 10))
    image = text.clone()
    image[rare, 7] = 0.8
    image[:, 6] += 0.1 * torch.randn(400, generator=g)
    return image, text, rare


def test_first_mode_is_what_varies_most(planted):
    image, text, rare = planted
    first, second = diversity_modes(image, text, count=2, pictures=40)
    assert first.direction[7] > 0.9
    assert second.direction[6].abs() > 0.9
    assert sorted(first.high) == rare
    assert not set(first.low) & set(rare)
    assert first.share > second.share


def test_shares_are_the_spectrum(make_pairs: Callable):
    image, text = make_pairs()
    modes, found = diversity_modes(image, text, count=99), schur_complement_entropy(image, text)
    assert sum(mode.eigenvalue for mode in modes) == pytest.approx(found.trace_image)
    assert sum(mode.share for mode in modes) == pytest.approx(1)
    lam = torch.tensor([mode.eigenvalue for mode in modes]).double()
    assert torch.exp(-(lam * (lam / lam.sum()).log()).sum()) == pytest.approx(found.image)
    directions = torch.stack([mode.direction for mode in modes])
    torch.testing.assert_close(directions @ directions.T, torch.eye(len(modes)).double(), atol=1e-10, rtol=0)


def test_gaussian_modes_find_the_same_pictures(planted):
    image, text, rare = planted
    mode = diversity_modes(image, text, count=1, pictures=40, kernel="gaussian", sigma=1.0, rff_dim=200)[0]
    assert sorted(mode.high) == rare
    assert mode.direction.shape == (400,)


def test_pictures_of_one_look_have_no_modes_but_the_ridge():
    prompt = torch.ones(6, 4)
    assert sum(mode.eigenvalue for mode in diversity_modes(prompt, prompt, ridge=1e-9)) < 1e-8


def test_bad_input(planted):
    image, text, _ = planted
    with pytest.raises(HapaxError, match="count is 0"):
        diversity_modes(image, text, count=0)

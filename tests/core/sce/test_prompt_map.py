"""Prompts taken out of embeddings: what goes, what stays, and the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sce import PromptMap, fit_prompt_map
from safetensors.torch import save_file
from torch.nn.functional import normalize

GAUSSIAN = {"kernel": "gaussian", "sigma": 3.0, "rff_dim": 40}


@pytest.mark.parametrize("ridge", [1e-1, 1e-6])
def test_map_is_ridge_regression_of_directions(make_pairs: Callable, ridge: float):
    image, text = make_pairs()
    x, y = normalize(text).numpy(), normalize(image).numpy()
    b = np.linalg.solve(x.T @ x + len(x) * ridge * np.eye(12), x.T @ y)
    fitted = fit_prompt_map(image, text, ridge=ridge)
    np.testing.assert_allclose(fitted.b.numpy(), b, atol=1e-8)
    np.testing.assert_allclose(fitted.keep(text).numpy(), x @ b, atol=1e-8)
    rest = fitted.remove(image, text)
    np.testing.assert_allclose(
        rest.numpy(), image.numpy() - image.norm(dim=1, keepdim=True).numpy() * (x @ b), atol=1e-8
    )


@pytest.mark.parametrize("options", [{}, GAUSSIAN])
def test_means_of_prompts_become_equal(make_pairs: Callable, options: dict):
    """Eight prompts in twelve dimensions are independent, so the map can follow each one's mean picture."""
    image, text = make_pairs(400, 12, 8)
    image = normalize(image)
    fitted = fit_prompt_map(image, text, **options)
    rest = fitted.remove(image, text)
    for prompt in torch.unique(text, dim=0):
        rows = (text == prompt).all(1)
        assert image[rows].mean(0).norm() > 0.3
        assert rest[rows].mean(0).norm() < 0.01


def test_strength_is_linear_and_zero_is_bit_equal(make_pairs: Callable):
    image, text = (x.float() for x in make_pairs())
    fitted = fit_prompt_map(image, text)
    assert torch.equal(fitted.remove(image, text, 0.0), image)
    half, whole = fitted.remove(image, text, 0.5), fitted.remove(image, text)
    torch.testing.assert_close(half, (image + whole) / 2, atol=1e-5, rtol=0)
    assert whole.dtype == torch.float32


def test_every_pair_of_roles(make_pairs: Callable):
    """Images by texts, texts by images, texts by other texts: the residual is uncorrelated with the condition."""
    image, text = make_pairs(500, 10, 500)
    other = text + 0.5 * make_pairs(500, 10, 500, seed=4)[1]
    for target, condition in ((image, text), (text, image), (text, other)):
        target, condition = normalize(target), normalize(condition)
        rest = fit_prompt_map(target, condition).remove(target, condition)
        assert (condition.T @ target / 500).norm() > 0.05
        assert (condition.T @ rest / 500).norm() < 1e-5


def test_norms_can_be_restored(make_pairs: Callable):
    image, text = make_pairs(scale=9.0)
    rest = fit_prompt_map(image, text).remove(image, text, unit=True)
    torch.testing.assert_close(rest.norm(dim=1), image.norm(dim=1))


def test_one_prompt_serves_many_pictures(make_pairs: Callable):
    image, text = make_pairs()
    fitted = fit_prompt_map(image, text)
    torch.testing.assert_close(fitted.remove(image, text[:1]), fitted.remove(image, text[:1].expand(120, -1)))


@pytest.mark.parametrize("options", [{}, GAUSSIAN])
def test_file_round_trip(make_pairs: Callable, tmp_path: Path, options: dict):
    image, text = make_pairs()
    fitted = fit_prompt_map(image, text, **options, meta={"clip": "abc", "role": "image by text"})
    fitted.save(tmp_path / "deep" / "map.safetensors")
    loaded = PromptMap.load(tmp_path / "deep" / "map.safetensors")
    assert torch.equal(loaded.remove(image, text), fitted.remove(image, text))
    assert (loaded.ridge, loaded.n, loaded.unique_texts, loaded.meta) == (1e-6, 120, 8, fitted.meta)


def test_files_that_are_no_map(tmp_path: Path, make_pairs: Callable):
    path = tmp_path / "x.safetensors"
    with pytest.raises(HapaxError, match="There is no file"):
        PromptMap.load(path)
    path.write_bytes(b"12345678")
    with pytest.raises(HapaxError, match="no safetensors file or is damaged"):
        PromptMap.load(path)
    save_file({"b": torch.ones(2, 2)}, str(path))
    with pytest.raises(HapaxError, match="is not a prompt map of Hapax"):
        PromptMap.load(path)
    save_file({"b": torch.ones(2, 2)}, str(path), {"format": "hapax.prompt_map", "version": "9"})
    with pytest.raises(HapaxError, match="has format version 9, but this Hapax reads 1"):
        PromptMap.load(path)
    save_file({"b": torch.ones(2, 2)}, str(path), {"format": "hapax.prompt_map", "version": "1", "fit": "{}"})
    with pytest.raises(HapaxError, match="damaged header"):
        PromptMap.load(path)
    fit = '{"ridge": 1, "n": 2, "unique_texts": 1, "meta": {}}'
    save_file({"b": torch.ones(3, 2)}, str(path), {"format": "hapax.prompt_map", "version": "1", "fit": fit})
    with pytest.raises(HapaxError, match=r"float32 \[3, 2\] for b; expected floats of shape \[2, 2\]"):
        PromptMap.load(path)


def test_bad_input(make_pairs: Callable, tmp_path: Path):
    image, text = make_pairs()
    fitted = fit_prompt_map(image, text)
    with pytest.raises(HapaxError, match="ridge is 0"):
        fit_prompt_map(image, text, ridge=0)
    with pytest.raises(HapaxError, match="There are 120 images but 3 texts"):
        fitted.remove(image, text[:3])
    with pytest.raises(HapaxError, match="have 5 dimensions, but the map was fitted on 12"):
        fitted.keep(text[:, :5])
    with pytest.raises(HapaxError, match="strength is nan"):
        fitted.remove(image, text, float("nan"))
    with pytest.raises(HapaxError, match="can't be written as JSON"):
        fit_prompt_map(image, text, meta={"x": image}).save(tmp_path / "map.safetensors")

"""Pairs of embeddings, and the definition of the score in plain numpy, written apart from the library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

Pairs = tuple[Tensor, Tensor]


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., Pairs]:
    """n pairs [n, d], fp64, of some prompts; a picture is half its prompt's and half one of three kinds'."""

    def make(n: int = 120, d: int = 12, prompts: int = 8, seed: int = 0, scale: float = 1.0) -> Pairs:
        rng = np.random.default_rng(seed)
        texts, kinds = rng.normal(size=(prompts, d)), rng.normal(size=(3, d))
        link = rng.normal(size=(d, d)) / np.sqrt(d)
        which = rng.permutation(n) % prompts
        noise = 0.3 * rng.normal(size=(n, d))
        image = texts[which] @ link + kinds[rng.integers(3, size=n)] + noise
        return torch.from_numpy(scale * image), torch.from_numpy(scale * texts[which])

    return make


def _values(c: np.ndarray) -> tuple[float, float, float]:
    lam = np.linalg.eigvalsh(c)
    lam = lam[lam > 1e-14]
    tau = lam.sum()
    entropy = -(lam / tau * np.log(lam / tau)).sum()
    return np.exp(tau * entropy), np.exp(entropy), tau


@pytest.fixture(scope="session")
def oracle() -> Callable[..., dict[str, float]]:
    """The score from the definition: C_II - C_IT (C_TT + ridge)^-1 C_TI by explicit inverse, from features."""

    def score(phi_image: np.ndarray, phi_text: np.ndarray, ridge: float) -> dict[str, float]:
        n = len(phi_image)
        ii, it, tt = phi_image.T @ phi_image / n, phi_image.T @ phi_text / n, phi_text.T @ phi_text / n
        explained = it @ np.linalg.inv(tt + ridge * np.eye(len(tt))) @ it.T
        image, text = _values(ii - explained), _values(explained)
        names = ("image", "image_effective", "trace_image", "text", "text_effective", "trace_text")
        return dict(zip(names, (*image, *text), strict=True))

    return score


@pytest.fixture(scope="session")
def exact_features() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Finite features whose products are the Gaussian kernel exactly: a root of the joint 2n x 2n Gram matrix."""

    def root(image: Tensor, text: Tensor, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        z = np.concatenate([image.numpy(), text.numpy()])
        k = np.exp(-np.square(z[:, None] - z[None]).sum(-1) / (2 * sigma**2))
        values, vectors = np.linalg.eigh(k)
        phi = vectors * np.sqrt(values.clip(0))
        return phi[: len(image)], phi[len(image) :]

    return root

"""The published method, restated in numpy from the paper's equations and the official code's behaviour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hapax.core.rarity import pool_activations, score_features, score_official


def paper_scores(z: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 2-4 picture by picture: (latents that fire, their scores, their centroids)."""
    e = np.stack([row / np.sqrt((row * row).sum()) for row in e.astype(np.float64)])
    z = z.astype(np.float64)
    nu, d, mu = {}, {}, {}
    mu_D = np.mean(e, axis=0)
    for i in range(z.shape[1]):
        fires = [x for x in range(len(z)) if z[x, i] > 0]
        if fires:
            nu[i] = len(fires) / len(z)
            mu[i] = sum(z[x, i] * e[x] for x in fires) / sum(z[x, i] for x in fires)
            d[i] = 1 - mu[i] @ mu_D / np.linalg.norm(mu[i]) / np.linalg.norm(mu_D)
    latents = np.array(sorted(nu))
    nu_all, d_all = (np.array([column[i] for i in latents]) for column in (nu, d))
    d_scaled = (d_all - d_all.min()) / (d_all.max() - d_all.min())
    nu_scaled = (nu_all - nu_all.min()) / (nu_all.max() - nu_all.min())
    return latents, d_scaled * (1 - nu_scaled), np.stack([mu[i] for i in latents])


def official_pruning(scores: np.ndarray, centroids: np.ndarray) -> list[int]:
    """The official loop: a queue by score, a pool that shrinks by groups, a cut at the 90th percentile."""
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    cut = np.percentile(scores, 90)
    pool, kept = set(range(len(scores))), []
    for i in np.argsort(-scores, kind="stable"):
        if i in pool:
            group = {j for j in pool if distance[i, j] < 0.003}
            best = max(group, key=lambda j: scores[j])
            if scores[best] > cut:
                kept.append(int(best))
                pool -= group
    return kept


def random_pictures(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = torch.relu(torch.randn(80, 120, generator=g) - 2 * torch.rand(120, generator=g))
    z[:, torch.randperm(120, generator=g)[:9]] = 0
    return z, torch.randn(80, 16, generator=g) + 0.5


def structured_pictures(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four kinds of pictures; forty latents a kind, many of which are nearly copies of each other."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.arange(4).repeat_interleave(torch.tensor([40, 22, 10, 8]))
    e = torch.randn(4, 16, generator=g)[kind] + 0.2 * torch.randn(80, 16, generator=g) + 1
    z = torch.nn.functional.one_hot(kind, 4).float().repeat_interleave(40, 1)
    strength = 1 + 0.1 * torch.rand(80, 160, generator=g)
    return z * strength * (torch.rand(80, 160, generator=g) < 0.9), e


WORLDS = pytest.mark.parametrize("world", [random_pictures, structured_pictures])


@WORLDS
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_papers(world, seed):
    z, e = world(seed)
    latents, scores, _ = paper_scores(z.numpy(), e.numpy())
    table = score_features(z, e)
    assert sorted(table.latent.tolist()) == latents.tolist()
    by_latent = dict(zip(latents.tolist(), scores.tolist(), strict=True))
    expected = torch.tensor([by_latent[i] for i in table.latent.tolist()], dtype=torch.float64)
    torch.testing.assert_close(table.score, expected, rtol=1e-10, atol=1e-12)


@WORLDS
@pytest.mark.parametrize("seed", range(3))
def test_pruning_is_the_official_one(world, seed):
    z, e = world(seed)
    latents, scores, centroids = paper_scores(z.numpy(), e.numpy())
    kept = official_pruning(scores, centroids)
    found, found_scores = score_official(z, e)
    assert found.tolist() == latents[kept].tolist()
    torch.testing.assert_close(found_scores, torch.from_numpy(scores[kept]), rtol=1e-10, atol=1e-12)


def test_pruning_has_something_to_drop():
    z, e = structured_pictures(0)
    _, scores, centroids = paper_scores(z.numpy(), e.numpy())
    assert len(official_pruning(scores, centroids)) < (scores > np.percentile(scores, 90)).sum()


@pytest.mark.parametrize("centred", [True, False])
def test_the_uncentred_activations_of_the_official_code(centred):
    """The official scoring encodes tokens without subtracting b_dec, though training and heatmaps do."""
    g = torch.Generator().manual_seed(5)
    tokens = torch.randn(60, 3, 9, 12, generator=g, dtype=torch.float64)
    w_enc = torch.randn(12, 40, generator=g, dtype=torch.float64)
    b_dec = torch.randn(12, generator=g, dtype=torch.float64)
    e = torch.randn(60, 8, generator=g)
    threshold = 2.0

    def encode(x: torch.Tensor) -> torch.Tensor:
        pre = torch.relu((x - b_dec if centred else x) @ w_enc)
        return torch.where(pre > threshold, pre, 0.0)

    last = tokens[:, -1].numpy() - (b_dec.numpy() if centred else 0)
    pre = np.maximum(np.einsum("npc,cl->npl", last, w_enc.numpy()), 0)
    z = np.where(pre > threshold, pre, 0).mean(axis=1)

    pooled = pool_activations(encode, tokens, which="last")
    np.testing.assert_allclose(pooled.numpy(), z, rtol=1e-6)
    latents, scores, centroids = paper_scores(z, e.numpy())
    kept = official_pruning(scores, centroids)
    found, found_scores = score_official(pooled, e)
    assert found.tolist() == latents[kept].tolist()
    np.testing.assert_allclose(found_scores.numpy(), scores[kept], rtol=1e-4)

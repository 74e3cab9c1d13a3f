"""Scoring a store, ours against the official sequence of operations: `python benchmarks/scoring.py [--quick]`.

The official sequence is written anew from its description (RAIGen's published code, Sec. 4.2 of the paper): at the
last step all 20,480 latents of every token, uncentred; their mean over positions, picture by picture; then only the
first 2,048 are looked at: frequency, one weighted CLIP centroid a latent, min-max, and pruning by popping from a
list beside a full matrix of distances. Ours encodes the scored latents alone and sums everything in one pass. In
legacy mode (uncentred tokens, last step, no null, no intervals) both must keep the same latents with equal scores;
the default (five steps, centred, firing by a split, null and bootstrap) is timed beside them.

SDXL's shape: 1,280 channels, 20,480 latents of which 2,048 are scored, 64 tokens a picture and step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from hapax.core.activations import ActivationStore
from hapax.core.firing import firing
from hapax.core.rarity import pool_activations, score_features, score_official
from hapax.core.sae import MatryoshkaSAE, calibrate_threshold
from torch import Tensor

STEPS, POSITIONS = 5, 64
NEAR, BEST = 0.003, 0.9


@torch.no_grad()
def official_activations(sae: MatryoshkaSAE, tokens: Tensor, batch: int = 8) -> Tensor:
    """Every latent's mean over positions at the last step, `[n, d_sae]`, without centring the tokens."""
    rows = []
    for pictures in tokens[:, -1].split(batch):
        pre = torch.relu(pictures.float() @ sae.W_enc.T)
        rows.append((pre * (pre > sae.threshold)).mean(1))
    return torch.cat(rows)


def official_scores(activations: Tensor, embeddings: Tensor, coarse: int) -> tuple[list[int], list[float]]:
    """Latents and scores that the published code keeps, best first."""
    unit = torch.nn.functional.normalize
    features, centre = unit(embeddings, dim=1), unit(unit(embeddings, dim=1).mean(0), dim=0)
    latents, frequency, distance, centroids = [], [], [], []
    for i in range(coarse):
        z = activations[:, i]
        rate = float((z > 0).float().mean())
        if rate:
            centroid = unit((z[:, None] * features).sum(0) / z.sum(), dim=0)
            latents.append(i)
            frequency.append(rate)
            distance.append(1 - float(centroid @ centre))
            centroids.append(centroid)
    nu, d = (scaled(torch.tensor(values)) for values in (frequency, distance))
    score = d * (1 - nu)
    apart = 1 - torch.stack(centroids) @ torch.stack(centroids).T
    waiting, kept = score.argsort(descending=True, stable=True).tolist(), []
    while waiting:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [other for other in waiting if apart[best, other] >= NEAR]
    bound = torch.quantile(score, BEST)
    kept = [i for i in kept if score[i] > bound]
    return [latents[i] for i in kept], score[kept].tolist()


def scaled(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min())


def legacy_scores(sae: MatryoshkaSAE, tokens: Tensor, embeddings: Tensor) -> tuple[list[int], list[float]]:
    """The same result by the library: the scored latents alone, uncentred, at the last step."""
    W = sae.W_enc[: sae.prefix_sizes[0]]

    def uncentred(x: Tensor) -> Tensor:
        pre = torch.nn.functional.linear(x.float(), W)
        return torch.where(pre > sae.threshold, pre, 0)

    latents, scores = score_official(pool_activations(uncentred, tokens, which="last"), embeddings)
    return latents.tolist(), scores.tolist()


def default_scores(sae: MatryoshkaSAE, tokens: Tensor, embeddings: Tensor) -> Any:
    """What an audit does: all recorded steps, centred, with the null and intervals."""
    rows = torch.arange(sae.prefix_sizes[0])
    pooled = pool_activations(lambda x: sae.encode_rows(x.float(), rows), tokens)
    return score_features(firing(pooled), embeddings, normalize="rank")


def recorded(folder: str, n: int, channels: int, width: int) -> ActivationStore:
    """A store of `n` pictures: sparse sums of features, some of them rare, that also move the embeddings."""
    draw = torch.Generator().manual_seed(0)
    features, looks = (torch.randn(64, size, generator=draw) for size in (channels, width))
    rate = torch.logspace(-2, -0.2, 64)
    steps, cells = torch.linspace(0.1, 0.9, STEPS), torch.arange(POSITIONS)
    labels = {"step": steps.repeat_interleave(POSITIONS), "position": cells.repeat(STEPS)}
    store = ActivationStore.create(folder, {"site": "mid"})
    for seed in range(n):
        has = (torch.rand(64, generator=draw) < rate).float()
        noise = torch.randn(STEPS * POSITIONS, channels, generator=draw)
        where = torch.rand(STEPS * POSITIONS, 64, generator=draw) < 0.5
        sample = {"prompt": 0, "seed": seed, "embedding": torch.randn(width, generator=draw) + has @ looks}
        store.append(sample, 0.3 * (where * has) @ features + 0.1 * noise, labels)
    store.flush()
    return store


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="160 channels, 2,560 latents")
    arguments = parser.parse_args()
    channels = 160 if arguments.quick else 1280
    latents = 16 * channels
    sae = MatryoshkaSAE(channels, latents, (latents // 10, latents), 32)
    with tempfile.TemporaryDirectory() as folder:
        store = recorded(folder, arguments.pictures, channels, 768)
        tokens, embeddings = store.tokens(), store.embeddings()
        calibrate_threshold(sae, tokens[:16].flatten(0, 2).float())
        official, *seconds = timed(
            lambda: official_scores(official_activations(sae, store.tokens()), store.embeddings(), latents // 10)
        )
        legacy, *ours = timed(lambda: legacy_scores(sae, store.tokens(steps=[-1]), store.embeddings()))
        _, *default = timed(lambda: default_scores(sae, tokens, embeddings))
        store.close()
    assert official[0] == legacy[0], "the same latents in the same order"
    torch.testing.assert_close(torch.tensor(official[1]), torch.tensor(legacy[1]).float(), atol=2e-5, rtol=2e-5)
    print(f"{arguments.pictures} pictures, {channels} channels, {latents} latents; {len(official[0])} are kept by both")
    for name, (wall, cpu) in (("official", seconds), ("ours, legacy", ours), ("ours, default", default)):
        print(f"{name:15}{wall:8.2f} s wall {cpu:8.2f} s CPU")
    print(f"legacy mode is {seconds[0] / ours[0]:.1f} times as fast by the clock, {seconds[1] / ours[1]:.1f} by CPU")


if __name__ == "__main__":
    main()

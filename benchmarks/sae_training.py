"""SAE training, sparse against dense, side by side: `python benchmarks/sae_training.py [--steps 3] [--quick]`.

Speed at SDXL's full shape (1280 channels, 20480 latents, k 32, batches of 4096), then quality at a small one.
The dense form is the same objective by plain autograd: flat top-k, scatter, full matrix products.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from hapax.core.sae import MatryoshkaSAE, SAEConfig, calibrate_threshold, sae_metrics, train_sae
from torch import Tensor


class Enough(Exception):
    """Ends a training that was only to be timed."""


def features(n: int, d: int, n_features: int, seed: int) -> Tensor:
    """Sparse sums `[n, d]` of random unit features whose frequencies fall off like a power law, plus noise."""
    world = torch.Generator().manual_seed(0)
    directions = torch.randn(n_features, d, generator=world)
    directions /= directions.norm(dim=1, keepdim=True)
    frequency = torch.arange(1, n_features + 1) ** -0.7
    frequency = (frequency * 8 / frequency.sum()).clamp(max=0.8)
    draw = torch.Generator().manual_seed(seed)
    z = torch.rand(n, n_features, generator=draw) < frequency
    strength = 1 + torch.rand(n, n_features, generator=draw)
    return (z * strength) @ directions + 0.05 * torch.randn(n, d, generator=draw)


def train_dense(x: Tensor, config: SAEConfig, progress: Callable[..., None]) -> MatryoshkaSAE:
    """Train on the tokens `[N, d_in]` by dense products; same start and loss."""
    sae = MatryoshkaSAE(config.d_in, config.d_sae, config.prefix_sizes, config.k, seed=config.seed)
    scale = config.d_in**0.5 / x.norm(dim=1).mean()
    sae.b_dec.copy_(x.mean(0) * scale)
    sae.requires_grad_(True)
    optimiser = torch.optim.Adam(sae.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
    generator, step = torch.Generator().manual_seed(config.seed), 0
    for _ in range(config.epochs):
        for ids in torch.randperm(len(x), generator=generator).split(config.batch_size):
            optimiser.zero_grad()
            dense_loss(sae, x[ids] * scale, config).backward()
            W, g = sae.W_dec.detach(), sae.W_dec.grad
            g -= (g * W).sum(1, keepdim=True) * W
            optimiser.step()
            sae.normalise_decoder()
            step += 1
            progress(step, None, {})
    sae.requires_grad_(False)
    sae.unscale(scale)
    return sae


def dense_loss(sae: MatryoshkaSAE, x: Tensor, config: SAEConfig) -> Tensor:
    a = sae.pre_activations(x).relu().flatten()
    top = a.topk(config.k * len(x))
    z = torch.zeros_like(a).scatter(0, top.indices, top.values).view(len(x), -1)
    x_hat, losses, start = sae.b_dec, [(sae.b_dec - x).square().mean()], 0
    for end in config.prefix_sizes:
        x_hat = x_hat + z[:, start:end] @ sae.W_dec[start:end]
        losses.append((x_hat - x).square().mean())
        start = end
    return torch.stack(losses).mean()


def seconds_per_step(train: Callable[[Callable[..., None]], Any], steps: int) -> tuple[float, float]:
    """Median wall and CPU time of `steps` steps after a first one, which pays for fresh memory."""
    stamps: list[tuple[float, float]] = []

    def tick(*_: Any) -> None:
        stamps.append((time.perf_counter(), time.process_time()))
        if len(stamps) > steps:
            raise Enough

    with suppress(Enough):
        train(tick)
    wall, cpu = torch.tensor(stamps, dtype=torch.float64).diff(dim=0).median(0).values.tolist()
    return wall, cpu


def speed(config: SAEConfig, steps: int) -> None:
    x = torch.randn((steps + 1) * config.batch_size, config.d_in, generator=torch.Generator().manual_seed(0))
    sparse = seconds_per_step(lambda tick: train_sae(x, config, progress=tick), steps)
    dense = seconds_per_step(lambda tick: train_dense(x, config, tick), steps)
    threads = torch.get_num_threads()
    shape = f"d_in {config.d_in}, d_sae {config.d_sae}, k {config.k}, batch {config.batch_size}"
    print(f"{shape}, {threads} thread(s)\n{'':10}{'wall s/step':>12}{'CPU s/step':>12}{'tokens/s':>10}")
    for name, (wall, cpu) in (("sparse", sparse), ("dense", dense)):
        print(f"{name:10}{wall:12.2f}{cpu:12.2f}{config.batch_size / wall:10.0f}")
    # On a busy machine the wall clock tells about the others; CPU time does not.
    print(f"sparse is {dense[0] / sparse[0]:.2f} times as fast by the clock, {dense[1] / sparse[1]:.2f} by CPU\n")


def quality(config: SAEConfig, n: int) -> None:
    x, held_out = (features(size, config.d_in, 400, seed) for size, seed in ((n, 1), (8192, 2)))
    print(f"d_in {config.d_in}, d_sae {config.d_sae}, k {config.k}, {n} synthetic tokens x {config.epochs} epochs")
    print(f"{'':10}{'FVU':>18}{'dead':>10}{'CPU s':>10}")
    for name, train in (("sparse", train_sae), ("dense", train_dense)):
        start = time.process_time()
        trained = train(x, config, progress=lambda *_: None)
        sae = trained if isinstance(trained, MatryoshkaSAE) else trained.sae
        seconds = time.process_time() - start
        calibrate_threshold(sae, held_out)
        found = sae_metrics(sae, held_out)
        fvu = "  ".join(f"{value:.4f}" for value in found["fvu"])
        print(f"{name:10}{fvu:>18}{found['dead'][-1]:10.3f}{seconds:10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each form")
    parser.add_argument("--quick", action="store_true", help="leave out the full shape")
    arguments = parser.parse_args()
    if not arguments.quick:
        speed(SAEConfig(1280, 20480, (2048, 20480), 32, epochs=1), arguments.steps)
    # Without the auxiliary loss, so that both forms have the same objective to the letter.
    quality(SAEConfig(160, 2560, (512, 2560), 16, 1e-3, 1024, 5, aux_coefficient=0.0), 65536)


if __name__ == "__main__":
    main()

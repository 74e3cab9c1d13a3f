"""Time inside the hooks and taps over the time of a denoiser call, at the true size of Stable Diffusion 1.5.

    python benchmarks/tap_overhead.py

The UNet has SD1.5's config and random weights (speed doesn't depend on their values); a call is one guided
sample: 2 rows of 64 x 64 latents, 8 x 8 tokens of 1280 channels at `mid`. Smaller latents would be quicker
but tell nothing: the UNet's work shrinks by area and more, while hooks have a fixed cost in Python. Both
times come from the same calls. Bars: recording at most 5 %, steering at most 1 %. Takes about two minutes on
one core, and 5 GB.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from hapax.core.backends.hooks import Rows, tapped
from hapax.core.backends.schedules import TrainingSchedule
from hapax.core.sae.model import MatryoshkaSAE
from hapax.core.sites import find_sites
from hapax.core.steering import AddDirection, Scope, SteerFeatures
from hapax.core.taps import Recorder, compose

BARS = {"recording": 0.05, "steering": 0.01}


def stable_diffusion_15() -> UNet2DConditionModel:
    """The class' defaults are SD1's config but for the text's width and the size of the heads."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet.to_empty(device="cpu")
    for weight in unet.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return unet.eval().requires_grad_(False)


def timed(seconds: dict[str, float], name: str, work: Callable) -> Callable:
    def run(*args: object) -> object:
        start = time.perf_counter()
        result = work(*args)
        seconds[name] += time.perf_counter() - start
        return result

    return run


def measure(calls: int) -> dict[str, float]:
    unet, seconds = stable_diffusion_15(), defaultdict(float)
    sae, half = MatryoshkaSAE(1280, 20480, (2048, 20480), 32), Scope(end=0.5)
    recorder = Recorder([i / 8 for i in range(8)])
    direction = AddDirection(torch.randn(1280), scope=half)
    feature = SteerFeatures(sae, [7], mode="scale", scope=half)
    chain = compose(
        [
            timed(seconds, "recorder", recorder),
            timed(seconds, "direction", direction),
            timed(seconds, "feature", feature),
        ]
    )
    hooks = {find_sites(unet)["mid"]: timed(seconds, "all taps", chain)}
    x, text = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    whole = timed(seconds, "call", unet)
    # Stamps before and after the labelling hook, registered around it, time it too.
    stamps: list[float] = []
    before = unet.register_forward_pre_hook(lambda *_: stamps.append(time.perf_counter()))
    schedule = TrainingSchedule.of(DDIMScheduler())
    with torch.no_grad(), tapped(unet, hooks, schedule, Rows.of([0], guided=True)):
        after = unet.register_forward_pre_hook(lambda *_: stamps.append(time.perf_counter()))
        for timestep in torch.linspace(981, 601, calls).round():
            whole(x, timestep, text)
    before.remove()
    after.remove()
    seconds["labels"] = sum(end - start for start, end in zip(stamps[::2], stamps[1::2], strict=True))
    return {name: value / calls for name, value in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2, help="denoiser calls to average over")
    seconds = measure(parser.parse_args().calls)
    shares = {
        "recording": (seconds["labels"] + seconds["recorder"]) / seconds["call"],
        "steering": (seconds["labels"] + max(seconds["direction"], seconds["feature"])) / seconds["call"],
    }
    print(json.dumps({"seconds_per_call": seconds, "share": shares, "bars": BARS}, indent=2))
    return int(any(shares[name] > bar for name, bar in BARS.items()))


if __name__ == "__main__":
    raise SystemExit(main())

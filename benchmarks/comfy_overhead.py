"""What a tap costs on a UNet of SD1.5's size inside ComfyUI, as a share of the UNet's own time.

Run it with a ComfyUI checkout's own Python, which needs about 4 GB of memory (random weights, nothing is downloaded):

    HAPAX_COMFYUI=CHECKOUT CHECKOUT/.venv/bin/python -P benchmarks/comfy_overhead.py [--latent 16] [--calls 5]

Prints, per edit, the time inside our wrappers and patches over the time of the whole call, both measured in the same
calls, and the largest of the calls' shares.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What SD1.5 has more of than the tests' tiny model of its layout.
SD15 = {
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
}


def enter_comfyui() -> None:
    sys.path.insert(0, os.environ["HAPAX_COMFYUI"])
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location("hapax", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["hapax"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["hapax"])
    # Where the tests' tiny models are.
    sys.path.append(str(ROOT / "tests" / "nodes" / "inprocess"))


def build_sd15(dtype):
    """A MODEL of SD1.5's layout with small random weights."""
    import comfy.model_management
    import comfy.supported_models
    import torch
    from comfy.model_patcher import ModelPatcher
    from tiny_models import SD15_UNET

    config = comfy.supported_models.SD15(SD15_UNET | SD15)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device=comfy.model_management.get_torch_device())
    generator = torch.Generator(comfy.model_management.get_torch_device()).manual_seed(0)
    with torch.no_grad():
        for weight in model.diffusion_model.parameters():
            weight.uniform_(-0.02, 0.02, generator=generator)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())


def edits(channels):
    """The edits that the nodes make, by name, and a recorder."""
    import torch
    from hapax.core.sae import MatryoshkaSAE
    from hapax.core.steering import AddDirection, Scope, SteerFeatures
    from hapax.core.taps import Recorder

    sae = MatryoshkaSAE(channels, 16 * channels, (16 * channels // 10, 16 * channels), 32)
    latents = torch.arange(64)
    return {
        "add a direction": AddDirection(torch.randn(channels), strength=0.1, scope=Scope(rows="both")),
        "add 64 latents": SteerFeatures(sae, latents, strength=0.1, scope=Scope(rows="both")),
        "scale 64 latents": SteerFeatures(sae, latents, mode="scale", strength=0.1, scope=Scope(rows="both")),
        "record 64 places": Recorder([0.5], cond_only=False),
    }


class Clock:
    """Sums what passes inside functions; on an accelerator it waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, function, *args, **kwargs):
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begun = time.perf_counter()
        result = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - begun
        return result


def measure(model, tap, latent: int, calls: int) -> list[float]:
    """The share of our wrappers' and patches' time in each call of a model with one tap at `mid`."""
    import comfy.model_management
    import comfy.patcher_extension
    import torch
    from hapax.nodes import comfy_steps, comfy_taps

    inside, shares = Clock(), []
    tapped = comfy_taps.add_tap(model, "mid", tap)
    comfy.model_management.load_models_gpu([tapped])
    device = tapped.load_device
    options = dict(tapped.model_options["transformer_options"])
    (patch,) = options["patches"]["output_block_patch"]
    options["patches"] = {"output_block_patch": [lambda *args: inside.time(patch, *args)]}
    options["wrappers"] = tapped.wrappers
    kept, comfy_steps._label = comfy_steps._label, lambda *args: inside.time(kept, *args)
    x = torch.randn(2, 4, latent, latent, device=device)
    context = torch.randn(2, 77, 768, device=device)
    try:
        for call in range(calls + 1):
            inside.seconds, whole = 0.0, Clock()
            with torch.inference_mode():
                whole.time(
                    tapped.model.apply_model,
                    x,
                    torch.full((2,), 2.0, device=device),
                    c_crossattn=context,
                    transformer_options=options | {"cond_or_uncond": [1, 0]},
                )
            if call:
                shares.append(inside.seconds / whole.seconds)
    finally:
        comfy_steps._label = kept
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latent", type=int, default=16, help="side of the latent in cells")
    parser.add_argument("--calls", type=int, default=5, help="timed calls per edit, after one to warm up")
    parser.add_argument("--dtype", default="float32", help="torch's name of the compute dtype")
    arguments = parser.parse_args()
    enter_comfyui()
    import torch

    model = build_sd15(getattr(torch, arguments.dtype))
    for name, tap in edits(1280).items():
        shares = measure(model, tap, arguments.latent, arguments.calls)
        print(f"{name}: median {sorted(shares)[len(shares) // 2]:.3%} of the call, largest {max(shares):.3%}")


if __name__ == "__main__":
    main()

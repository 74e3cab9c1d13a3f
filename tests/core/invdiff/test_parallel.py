"""Two processes share a batch and end with the weights of one process that computes it in two parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.invdiff import GuidanceConfig, GuidanceModule, PictureSet, load_guidance, train_guidance

CONFIG = GuidanceConfig(steps=4, batch_size=16, warmup=1, hidden=8)

WORKER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
from hapax.core.distributed import process_group, rank
from hapax.core.invdiff import save_guidance
with process_group():
    backend = here.DiffusersBackend.from_folder(sys.argv[2] + "/model")
    module, history = here.trained(backend, here.CONFIG, folder=sys.argv[2] + "/run")
    save_guidance(module, f"{sys.argv[2]}/{rank()}.safetensors")
    with open(f"{sys.argv[2]}/{rank()}.json", "w") as file:
        json.dump(history, file)
"""


def pictures() -> PictureSet:
    latents = torch.randn(20, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return PictureSet(latents, torch.zeros(20, dtype=torch.long), ("a cat",), tuple(map(str, range(20))))


def weights() -> torch.Tensor:
    return torch.rand(20, 3, generator=torch.Generator().manual_seed(1)).softmax(1)


def trained(backend, config, **options):
    """A module, and what each step told: the loss, and each group's."""
    history = []

    def tell(step, steps, info):
        history.append([info["loss"], *info["groups"]])

    return train_guidance(backend, pictures(), weights(), config, progress=tell, **options), history


def flat(state):
    return torch.cat([state[name].flatten() for name in sorted(state)])


def test_two_processes_train_as_one_in_two_parts(tiny_pipelines, tmp_path):
    pipeline = tiny_pipelines.sd1()
    pipeline.unet = tiny_pipelines.unet(block_out_channels=(32, 64))
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "worker.py").write_text(WORKER)
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*torchrun, str(tmp_path / "worker.py"), __file__, str(tmp_path)], env=environment, check=True)
    first, second = (load_guidance(tmp_path / f"{rank}.safetensors").state_dict() for rank in range(2))
    backend = DiffusersBackend.from_folder(tmp_path / "model")
    module, history = trained(backend, replace(CONFIG, accumulation=2))
    for name in first:
        assert torch.equal(first[name], second[name])
    # The two sides differ in nothing but the order in which floats are summed. Losses are sums: they show at every
    # step whether the same pictures were seen at the same weights.
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(told) == len(history) == CONFIG.steps
        for mine, theirs in zip(told, history, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4)
    # Single weights have no such bound: Adam divides each one's gradient by its own size, so where that is no more
    # than the rounding of its sum, a whole update may go the other way. This meets a share of the weights as small as
    # the rounding, 1 in 10^7, so of N there is hardly ever one, which moves by at most twice what it would: all of
    # them together lie no further apart than 2 / sqrt(N) of the way that they have come. Other gradients lie as far
    # apart as the way itself.
    start, end = (flat(each.state_dict()) for each in (GuidanceModule(module.shape, seed=CONFIG.seed), module))
    apart = (flat(first) - end).norm() / (end - start).norm()
    assert float(apart) < 2 / len(end) ** 0.5

"""Two processes share a batch and end with the weights of one process that computes it in two parts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.invdiff import GuidanceConfig, PictureSet, load_guidance, train_guidance

CONFIG = GuidanceConfig(steps=4, batch_size=16, warmup=1, hidden=8)

WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
from hapax.core.distributed import process_group, rank
from hapax.core.invdiff import save_guidance
with process_group():
    backend = here.DiffusersBackend.from_folder(sys.argv[2] + "/model")
    module = here.train_guidance(backend, here.pictures(), here.weights(), here.CONFIG, folder=sys.argv[2] + "/run")
    save_guidance(module, f"{sys.argv[2]}/{rank()}.safetensors")
"""


def pictures() -> PictureSet:
    latents = torch.randn(20, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return PictureSet(latents, torch.zeros(20, dtype=torch.long), ("a cat",), tuple(map(str, range(20))))


def weights() -> torch.Tensor:
    return torch.rand(20, 3, generator=torch.Generator().manual_seed(1)).softmax(1)


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
    alone = train_guidance(backend, pictures(), weights(), replace(CONFIG, accumulation=2)).state_dict()
    for name in first:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], alone[name], rtol=1e-4, atol=1e-6)

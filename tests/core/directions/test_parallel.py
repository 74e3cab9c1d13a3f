"""A bank recorded by two processes is the bank recorded by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.directions import CaptionIndex

WORKER = """
import os, sys
import torch.distributed as dist
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.directions import CaptionIndex, parts

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
parts._SAMPLES = 4
backend, done = DiffusersBackend.from_folder(f"{folder}/model"), []
index = CaptionIndex.build(
    backend, BANK, seeds=2, steps=2, guidance=1.0, folder=f"{folder}/shared", progress=lambda *call: done.append(call)
)
index.save(f"{folder}/{rank}.safetensors")
open(f"{folder}/{rank}.txt", "w").write(str(done[-1][1:]))
dist.barrier()
dist.destroy_process_group()
# Gloo's threads now and then abort the interpreter while it is taken down; all files are written and closed.
os._exit(0)
"""
BANK = ["a cat", "a dog", "a cat, sketch", "something else altogether", "a tree"]


@pytest.mark.slow
def test_two_processes_share_a_recording(tiny_pipelines, tmp_path: Path) -> None:
    tiny_pipelines.build("sd1").save_pretrained(tmp_path / "model")
    command = [sys.executable, "-P", "-c", WORKER.replace("BANK", repr(BANK))]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(1200) for process in running] == [0, 0]
    one = CaptionIndex.build(
        DiffusersBackend.from_folder(tmp_path / "model"), BANK, seeds=2, steps=2, guidance=1.0, folder=tmp_path / "one"
    )
    for rank in range(2):
        index = CaptionIndex.load(tmp_path / f"{rank}.safetensors")
        # Batches of other captions are rounded otherwise.
        torch.testing.assert_close(index.offsets().float(), one.offsets().float(), rtol=0.02, atol=1e-3)
        # Six captions with the neutral one, two a part: one process has two parts of the three.
    assert sorted((tmp_path / f"{rank}.txt").read_text() for rank in range(2)) == ["(2, 2)", "(4, 4)"]

"""Kill an audit at random moments and resume it, many times: `python benchmarks/kill_resume.py [--kills 100]`.

Each audit is `hapax audit` on a tiny Stable Diffusion pipeline of random weights, in a process of its own that is
sent SIGKILL at a moment drawn evenly over the length of an unbroken run, resumed, perhaps killed again, and at last
left to finish. Its pictures, activations and audit.json must be those of the unbroken run, bit for bit but for
times. A process is forked from one that has imported everything, so that nothing of a trial is Python's start.
The audit saves every .05 s instead of every minute, so that kills fall before, in and between shards.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from hapax.core import audit, collect
from hapax.core.activations import ActivationStore
from hapax.core.cli import main as hapax

TINY_PIPELINES = Path(__file__).parents[1] / "tests/core/tiny_pipelines.py"
PROMPTS, IMAGES = ("a cat", "a dog"), 60


def tiny_pipeline(folder: Path) -> None:
    """Save the tests' tiny Stable Diffusion pipeline."""
    spec = importlib.util.spec_from_file_location("tiny_pipelines", TINY_PIPELINES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build("sd1").save_pretrained(folder)


def command(folder: Path, out: Path) -> list[str]:
    """The audit of `out`; --resume is allowed on a new folder too."""
    return [
        "audit", f"--pipeline={folder / 'pipeline'}", f"--prompts={folder / 'prompts.txt'}", f"--out={out}",
        f"--bank={folder / 'prompts.txt'}",
        "--clip=hapax-emoji", "--device=cpu", f"--images={IMAGES}", "--steps=3", "--guidance=2", "--batch-size=7",
        "--record-steps=2", "--positions=16", "--latents=96", "--coarse=32", "--k=4", "--epochs=4", "--resume",
    ]  # fmt: skip


def run(words: list[str], log: Path, kill_after: float | None = None) -> bool:
    """Run the command in a child process that is killed after so many seconds; say whether it finished.

    Raises:
        RuntimeError: it failed by itself.
    """
    child = os.fork()
    if child == 0:
        # Nothing of the parent's may run in the child, so it leaves by _exit whatever happens.
        code = 1
        with contextlib.suppress(BaseException), open(log, "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            code = hapax(words)
        os._exit(code)
    began = time.perf_counter()
    while (left := (kill_after or 3600) - (time.perf_counter() - began)) > 0:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(min(left, 0.005))
    else:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the audit failed by itself: {log.read_text()}")
    return not os.WIFSIGNALED(status)


def stage(out: Path) -> str:
    """How far an audit had come."""
    if (out / "audit.json").exists():
        return "report"
    if (out / "sae/p1.safetensors").exists():
        return "scoring"
    held = 0
    if (out / "activations/store.json").exists():
        held = len(ActivationStore.open(out / "activations"))
    if held == len(PROMPTS) * IMAGES:
        return "training"
    return "sampling, nothing saved" if not held else "sampling, a part saved"


def content(out: Path) -> tuple[list[Any], dict[str, Any]]:
    """The final sample set with all that was recorded, and audit.json but for times."""
    with ActivationStore.open(out / "activations") as store:
        assert store.verify() == [], store.damaged
        rows = [[*row.identity, row.caption] for row in store.samples]
        parts = [store.tokens(), store.thumbnails(), store.embeddings()]
    audit = json.loads((out / "audit.json").read_text())
    del audit["created"], audit["provenance"]
    return [rows, *(part.numpy().tobytes() for part in parts)], audit


def trial(folder: Path, name: str, kills: int, seconds: float, whole: tuple[list[Any], dict[str, Any]]) -> Counter[str]:
    """Kill one audit `kills` times at most, finish it, compare it; return the stages in which it was killed."""
    out, stages = folder / name, Counter[str]()
    while kills and not run(command(folder, out), folder / "log", random.uniform(0, seconds)):
        stages[stage(out)] += 1
        kills -= 1
    assert run(command(folder, out), folder / "log")
    samples, audit = content(out)
    assert samples == whole[0], f"{out} has other samples than the unbroken audit"
    assert audit == whole[1], f"{out} has another audit.json than the unbroken audit"
    assert not list(out.rglob("*.tmp")), "a killed writer's leftovers are cleared"
    return stages


def measure(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill audits `kills` times in all; return the stages in which they were killed.

    Raises:
        AssertionError: a resumed audit differs from the unbroken one.
    """
    random.seed(seed)
    torch.set_num_threads(1)
    tiny_pipeline(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    collect.SAVE_SECONDS = 0.05
    assert run(command(folder, folder / "warm"), folder / "log")
    began = time.perf_counter()
    assert run(command(folder, folder / "whole"), folder / "log")
    seconds, whole = time.perf_counter() - began, content(folder / "whole")
    print(f"an unbroken audit takes {seconds:.1f} s and holds {len(whole[0][0])} pictures", flush=True)
    stages: Counter[str] = Counter()
    while (left := kills - stages.total()) > 0:
        stages += trial(folder, f"trial-{stages.total()}", min(left, random.randint(1, 3)), seconds, whole)
        print(f"\r{stages.total()} kills", end="", file=sys.stderr, flush=True)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    assert audit  # imported before the first fork
    with tempfile.TemporaryDirectory() as folder:
        stages = measure(Path(folder), arguments.kills, arguments.seed)
    print(f"\n{stages.total()} kills, every resumed audit is the unbroken one bit for bit; killed while")
    for name, count in stages.most_common():
        print(f"{count:6} {name}")


if __name__ == "__main__":
    main()

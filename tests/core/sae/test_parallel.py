"""Data-parallel training: two processes agree with each other and with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from hapax.core.sae import SAEConfig, load_sae, train_sae

WORKER = """
import json, os, sys
import torch
import torch.distributed as dist
from hapax.core.sae import SAEConfig, save_sae, train_sae
from hapax.core.distributed import average_gradients, gathered, least, summed
from safetensors.torch import load_file

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
for case, config in json.load(open(f"{folder}/cases.json")).items():
    data = load_file(f"{folder}/{case}.{rank}.in")
    dead = []
    note = lambda step, steps, info: dead.append(info["dead"])
    # Unequal seeds: the weights of process 0 must win.
    config = SAEConfig(**config, seed=rank)
    found = train_sae(data["tokens"], config, held_out=data.get("held_out"), progress=note)
    save_sae(found.sae, f"{folder}/{case}.{rank}.out")
    json.dump({**found.metrics, "dead_by_step": dead}, open(f"{folder}/{case}.{rank}.json", "w"))
weight = torch.zeros(2, requires_grad=True)
weight.grad = torch.tensor([1.0, 10.0]) * (rank + 1)
average_gradients([weight])
ragged = gathered(torch.arange(3 + 2 * rank) + 100 * rank)
sums = [summed(torch.tensor(rank + 5)).item(), least(rank + 5, torch.device("cpu"))]
json.dump([weight.grad.tolist(), ragged.tolist(), sums], open(f"{folder}/primitives.{rank}.json", "w"))
dist.barrier()
dist.destroy_process_group()
# Gloo's threads now and then abort the interpreter while it is taken down; all files are written and closed.
os._exit(0)
"""

SHAPE = {"d_in": 12, "d_sae": 48, "prefix_sizes": (12, 48), "k": 3, "lr": 3e-3, "aux_k": 8, "dead_after": 2}
# One batch an epoch, so that both ways see the same tokens in each step.
TWIN = {**SHAPE, "batch_size": 600, "epochs": 12}
UNEVEN = {**SHAPE, "batch_size": 32, "epochs": 3, "dead_after": 1}


def draw(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed)).abs() ** 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run both cases in two processes, once."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("parallel")
    (folder / "cases.json").write_text(json.dumps({"twin": TWIN, "uneven": UNEVEN}))
    for rank in range(2):
        save_file({"tokens": draw(300, 1)}, folder / f"twin.{rank}.in")
        uneven = {"tokens": draw((700, 450)[rank], rank), "held_out": draw((500, 333)[rank], 7 + rank)}
        save_file(uneven, folder / f"uneven.{rank}.in")
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-P", str(folder / "worker.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, str(rank), str(folder)], env=environment) for rank in range(2)]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    return folder


def outcome(folder, case):
    saes = [load_sae(folder / f"{case}.{rank}.out") for rank in range(2)]
    metrics = [json.loads((folder / f"{case}.{rank}.json").read_text()) for rank in range(2)]
    return saes, metrics


@pytest.mark.parametrize("case", ["twin", "uneven"])
def test_both_processes_end_with_the_same_sae_and_metrics(runs, case):
    (a, b), (found, also) = outcome(runs, case)
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, b.state_dict()[name]), name
    assert found == also


def test_a_latent_is_dead_only_if_no_process_activates_it(runs):
    _, (found, also) = outcome(runs, "uneven")
    assert found["dead_by_step"] == also["dead_by_step"]
    assert max(found["dead_by_step"]) > 0


def test_what_the_processes_agree_on(runs):
    for rank in range(2):
        gradient, ragged, sums = json.loads((runs / f"primitives.{rank}.json").read_text())
        assert gradient == [1.5, 15.0]
        assert ragged == [0, 1, 2, 100, 101, 102, 103, 104]
        assert sums == [11, 5]


def test_two_processes_with_equal_tokens_train_like_one_with_both(runs):
    (a, _), (found, _) = outcome(runs, "twin")
    alone = train_sae(draw(300, 1).repeat(2, 1), SAEConfig(**TWIN))
    assert found["steps"] == alone.metrics["steps"] == 12
    assert found["tokens"] == alone.metrics["tokens"] == 600
    for name, tensor in alone.sae.state_dict().items():
        torch.testing.assert_close(a.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert found["fvu"] == pytest.approx(alone.metrics["fvu"], rel=1e-3)


def test_uneven_processes_agree_on_the_number_of_steps(runs):
    _, (found, _) = outcome(runs, "uneven")
    # Each takes 16 of the 32 tokens of a step; the poorer one has 450 // 16 = 28 batches an epoch.
    assert found["steps"] == 3 * 28


def test_the_threshold_fits_the_tokens_of_all_processes(runs):
    (sae, _), (found, _) = outcome(runs, "uneven")
    held_out = torch.cat([draw(500, 7), draw(333, 8)])
    assert found["tokens"] == 833
    assert found["l0"][-1] == pytest.approx(3, abs=0.01)
    assert float((sae.encode(held_out) > 0).sum(1).float().mean()) == pytest.approx(3, abs=0.01)
    variance = (held_out - held_out.mean(0)).square().sum()
    assert found["fvu"][-1] == pytest.approx(float((sae(held_out) - held_out).square().sum() / variance), rel=1e-4)

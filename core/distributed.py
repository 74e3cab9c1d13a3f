"""Several processes at work on one job: who am I, and waiting for each other. One process is the special case."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def grouped() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if grouped() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if grouped() else 0


def summed(x: Tensor) -> Tensor:
    """Return the sum of `x` over the processes."""
    return _reduced(x, "SUM")


def least(number: int, device: torch.device) -> int:
    """Return the smallest of the processes' numbers."""
    return int(_reduced(torch.tensor(number, device=device), "MIN")) if grouped() else number


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over the processes."""
    if not grouped():
        return
    for p in parameters:
        assert p.grad is not None
        dist.all_reduce(p.grad)
        p.grad /= world_size()


def same_everywhere(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors with those of process 0."""
    if grouped():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def gathered(x: Tensor) -> Tensor:
    """Return the vectors `x` of all processes, of any lengths, one after the other."""
    if not grouped():
        return x
    sizes = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor(len(x), device=x.device))
    padded = x.new_zeros(int(max(sizes)))
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def _reduced(x: Tensor, how: str) -> Tensor:
    if not grouped():
        return x
    total = x.clone()
    dist.all_reduce(total, op=getattr(dist.ReduceOp, how))
    return total


def barrier() -> None:
    """Wait until every process is here."""
    if grouped():
        dist.barrier()


def mine(count: int) -> list[int]:
    """The indices out of `range(count)` that this process works on.

    >>> mine(3)
    [0, 1, 2]
    """
    return list(range(rank(), count, world_size()))


def gather(part: dict) -> dict:
    """The dicts of all processes as one, in every process."""
    parts: list[dict] = [part]
    if grouped():
        parts = [{}] * world_size()
        dist.all_gather_object(parts, part)
    return {key: value for each in parts for key, value in each.items()}


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group that torchrun announces (gloo on CPU, nccl on GPU), and leave it again."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Rank 0 scores and amplifies alone at the end, while the others wait.
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=12))
    try:
        yield
    finally:
        dist.destroy_process_group()

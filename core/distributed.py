"""Several processes at work on one job: who am I, and waiting for each other. One process is the special case."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number; 0 when there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
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
    if dist.is_initialized():
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

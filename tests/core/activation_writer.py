"""Writers that are killed with SIGKILL, run by test_activation_shards.py: `activation_writer.py MODE FOLDER`.

MODE random: a writer is killed ten times after a random delay, and resumed each time.
MODE every: a writer, then a merger, is killed right before each of its first system calls on files, in turn.
After each kill the store is opened and every picture in it compared with what was written.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from hapax.core import durable
from hapax.core.activations import ActivationStore
from safetensors import safe_open

LABELS = {"step": torch.tensor([0.5, 0.5]), "position": torch.tensor([0, 1])}
IDENTITIES = [(prompt, seed) for prompt in ("a", "b") for seed in range(150)]


def tokens_of(prompt: str, seed: int) -> torch.Tensor:
    return torch.full((2, 3), 1000.0 * (prompt == "b") + seed)


def write(folder: Path, identities: list[tuple[str, int]]) -> None:
    with ActivationStore.open_or_create(folder, {"site": "mid"}) as store:
        for prompt, seed in identities:
            if (prompt, seed) not in store:
                store.append({"prompt": prompt, "seed": seed}, tokens_of(prompt, seed), LABELS)
                if random.random() < 0.3:
                    store.flush()


def merge(folder: Path, parts: list[Path]) -> None:
    with ActivationStore.open_or_create(folder, {"site": "mid"}) as store:
        for part in parts:
            store.merge(ActivationStore.open(part))


def check(folder: Path) -> int:
    """Return how many pictures are in the store; fail if one is wrong, doubled, or anything is damaged."""
    if not (folder / "store.json").exists():
        return 0
    store = ActivationStore.open(folder)
    assert store.verify() == [], store.damaged
    for index, row in enumerate(store.samples):
        assert torch.equal(store.tokens(index).flatten(0, 2).float(), tokens_of(*row.identity))
    on_disk: Counter[float] = Counter()
    for path in (folder / "shards").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            on_disk.update(file.get_tensor("tokens")[:, 0, 0, 0].tolist())
    assert sorted(on_disk.values()) == [1] * len(store), on_disk.most_common(3)
    return len(store)


def in_child(work, *arguments, kill_after: float | None = None, kill_at: int | None = None) -> bool:
    """Run work in a child process that may be killed; return whether it finished."""
    child = os.fork()
    if child == 0:
        if kill_at is not None:
            kill_before_call(kill_at)
        try:
            work(*arguments)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WIFSIGNALED(status), "the writer failed by itself"
    return status == 0


def kill_before_call(number: int) -> None:
    """Make this process kill itself right before its `number`-th call that changes a file, or amid a write."""
    calls = iter(range(number))

    def counted(call):
        def wrapper(*arguments, **options):
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return wrapper

    class Torn(io.BufferedWriter):
        def write(self, data):
            if next(calls, None) is None:
                super().write(data[: len(data) // 2])
                self.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().write(data)

    def opened(path, mode, **options):
        return Torn(io.FileIO(path, mode)) if mode == "wb" else open(path, mode, **options)

    for name in ("replace", "fsync", "link", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    durable.open = counted(opened)  # type: ignore[attr-defined]


def random_kills(folder: Path) -> None:
    counts, started = [0], time.perf_counter()
    assert in_child(write, folder / "timing", IDENTITIES)
    whole = time.perf_counter() - started
    for _ in range(10):
        shuffled = random.sample(IDENTITIES, len(IDENTITIES))
        in_child(write, folder / "store", shuffled, kill_after=random.uniform(0, whole / 6))
        counts.append(check(folder / "store"))
    assert counts == sorted(counts), "pictures were lost"
    assert in_child(write, folder / "store", IDENTITIES)
    assert check(folder / "store") == len(IDENTITIES)
    print("pictures after each kill:", *counts[1:])


def kills_at_every_call(folder: Path) -> None:
    parts = [folder / "part-0", folder / "part-1"]
    for k, part in enumerate(parts):
        write(part, IDENTITIES[3 * k : 3 * k + 5])
    for name, work, argument, total in (("write", write, IDENTITIES[:6], 6), ("merge", merge, parts, 8)):
        number, finished, counts = 0, False, set()
        while not finished:
            target = folder / f"{name}-{number}"
            random.seed(0)
            finished = in_child(work, target, argument, kill_at=number)
            counts.add(check(target))
            assert in_child(work, target, argument)
            assert check(target) == total
            ActivationStore.open(target).drop_damaged()
            assert not [*target.rglob("*.tmp")], "the next writer clears what the killed one left"
            number += 1
        print(name, "was killed before each of", number - 1, "calls, leaving", sorted(counts), "pictures")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"random": random_kills, "every": kills_at_every_call}[sys.argv[1]](Path(sys.argv[2]))

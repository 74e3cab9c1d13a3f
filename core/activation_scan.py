"""Which shards of a folder can be used, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .activation_layout import Identity, canonical
from .activation_shards import Shard, ShardError, read_header, read_sidecar


@dataclass(frozen=True)
class Damaged:
    """A shard that is not used: its file name, the reason, and the pictures that are missing for it."""

    name: str
    reason: str
    samples: tuple[Identity, ...]
    files: tuple[Path, ...]


class _Findings:
    """What is wrong in a folder, gathered by the file it is about."""

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}
        self._samples: dict[Path, set[Identity]] = {}
        self._files: dict[Path, list[Path]] = {}

    def add(self, path: Path, reason: str, samples: Iterable[Identity] = (), file: Path | None = None) -> None:
        self.reasons.setdefault(path, reason)
        self._samples.setdefault(path, set()).update(samples)
        self._files.setdefault(path, []).append(file or path)

    def read_all(self, paths: Iterable[Path], read: Callable[[Path], Shard]) -> list[Shard]:
        shards = []
        for path in sorted(paths):
            try:
                shards.append(read(path))
            except ShardError as error:
                self.add(path, str(error))
        return shards

    def report(self, present: Container[Identity]) -> list[Damaged]:
        damaged = []
        for path, reason in sorted(self.reasons.items()):
            lost = sorted((each for each in self._samples[path] if each not in present), key=canonical)
            damaged.append(Damaged(path.name, reason, tuple(lost), tuple(self._files[path])))
        return damaged


def scan(
    folder: Path, refusal: Callable[[Shard], str | None], broken: Mapping[Path, str]
) -> tuple[list[Shard], list[Damaged]]:
    """Read the headers in a folder of shards; return the usable ones, ordered by id, and what ails the rest.

    `refusal` says why an intact shard is another store's, or None; `broken` holds the reasons of shards whose
    content was found damaged before. Of shards that share a picture one is used. A shard that is gone is
    reported under its name, from its sidecar.
    """
    findings = _Findings()
    # Sidecars first: a writer adds them after their shards, so a new one can't look like an orphan.
    sidecars = findings.read_all(folder.glob("*.json"), read_sidecar)
    found = findings.read_all(folder.glob("*.safetensors"), read_header)
    used: list[Shard] = []
    holder: dict[Identity, str] = {}
    for shard in sorted(found, key=lambda shard: shard.id):
        twice = next((holder[identity] for identity in shard.samples if identity in holder), None)
        if (foreign := refusal(shard)) is not None:
            findings.add(shard.path, foreign)
        elif shard.path in broken or twice is not None:
            reason = broken.get(shard.path, f"a duplicate: {twice} holds pictures of it")
            findings.add(shard.path, reason, shard.samples)
        else:
            used.append(shard)
            holder.update(dict.fromkeys(shard.samples, shard.path.name))
    ids = {shard.id for shard in used}
    _add_orphans(findings, [each for each in sidecars if each.id not in ids], refusal, holder)
    return used, findings.report(holder)


def _add_orphans(
    findings: _Findings,
    orphans: list[Shard],
    refusal: Callable[[Shard], str | None],
    holder: Container[Identity],
) -> None:
    """Report sidecars without their shard, unless all that it held was made again."""
    for orphan in orphans:
        shard_path = orphan.path.with_suffix(".safetensors")
        if (foreign := refusal(orphan)) is not None:
            findings.add(orphan.path, foreign)
        elif shard_path in findings.reasons or any(each not in holder for each in orphan.samples):
            findings.add(shard_path, "missing", orphan.samples, orphan.path)

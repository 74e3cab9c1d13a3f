"""Pairs from files: a folder of pictures and the prompts they were made from, matched by name wherever names exist."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..embed import ClipEmbedder
from ..errors import HapaxError
from ..picture_files import is_picture, read_picture

NAME_KEYS = ("file_name", "filename", "file", "image", "path")
TEXT_KEYS = ("prompt", "text", "caption")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Pairing:
    """Pictures with their prompts, and what found no partner.

    Attributes:
        names: [n] of the pictures, relative to the folder, with "/".
        prompts: [n] one each.
        matched_by: "name", "order", or "one prompt for all".
        without_prompt: pictures that no prompt was given for.
        without_picture: names in the prompt file that no picture has.
    """

    names: list[str]
    prompts: list[str]
    matched_by: str
    without_prompt: list[str] = field(default_factory=list)
    without_picture: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Embedded:
    """Embeddings [n, d] of the pairs whose pictures could be read; the others, with reasons."""

    image: Tensor
    text: Tensor
    names: list[str]
    unreadable: list[tuple[str, str]]


def pair(folder: Path, prompts: Path | None = None) -> Pairing:
    """Match the pictures in a folder, and in folders in it, with prompts.

    Args:
        folder: of pictures; those that are hidden are left alone.
        prompts: None or a folder: `name.txt` beside `name.png`, or at the same place in that folder. A `.jsonl`
            file: objects with "prompt", "text" or "caption", matched by "file_name", "file", "image" or "path"
            if they have it, by order if none has. Another text file: one prompt a line, in the pictures' natural
            order (2 before 10); a single line is the prompt of all.

    Raises:
        HapaxError: no pictures, no prompts, or prompts that can't be matched.
    """
    names = _pictures(folder)
    if prompts is None or prompts.is_dir():
        return _by_sidecar(folder, prompts or folder, names)
    lines = _lines(prompts)
    if prompts.suffix.lower() not in (".jsonl", ".ndjson"):
        return _by_order(names, lines, prompts)
    rows = [_row(line, number, prompts) for number, line in enumerate(lines, 1)]
    if all(name is None for name, _ in rows):
        return _by_order(names, [text for _, text in rows], prompts)
    return _by_name(names, rows, prompts)


def embed_pairs(
    folder: Path, pairing: Pairing, embedder: ClipEmbedder, *, batch_size: int = 64, progress: Progress | None = None
) -> Embedded:
    """Embed pictures and prompts; each different prompt once. Pictures that can't be read are told, never dropped."""
    different = list(dict.fromkeys(pairing.prompts))
    texts = dict(zip(different, embedder.texts(different), strict=True))
    parts, rows, unreadable = [], [], []
    for start in range(0, len(pairing.names), batch_size):
        opened = []
        for i in range(start, min(start + batch_size, len(pairing.names))):
            picture = read_picture(folder / pairing.names[i])
            if isinstance(picture, str):
                unreadable.append((pairing.names[i], picture))
            else:
                opened.append(picture)
                rows.append(i)
        if opened:
            parts.append(embedder.images(opened, batch_size))
        if progress:
            progress("embedding", min(start + batch_size, len(pairing.names)), len(pairing.names))
    if not parts:
        raise HapaxError(f"None of the {len(unreadable)} pictures in {folder} can be read: {unreadable[0][1]}.")
    text = torch.stack([texts[pairing.prompts[i]] for i in rows])
    return Embedded(torch.cat(parts), text, [pairing.names[i] for i in rows], unreadable)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key under which numbers count as numbers.

    >>> sorted(["b10.png", "b9.png", "a.png"], key=natural)
    ['a.png', 'b9.png', 'b10.png']
    """
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts]


def _pictures(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise HapaxError(f"There is no folder {folder}; give the folder of the pictures.")
    found = [path.relative_to(folder) for path in folder.rglob("*") if is_picture(path)]
    names = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    if not names:
        raise HapaxError(f"There are no pictures in {folder}; expected files such as .png, .jpg or .webp.")
    return sorted(names, key=lambda name: (natural(name), name))


def _by_sidecar(folder: Path, captions: Path, names: list[str]) -> Pairing:
    prompts = {name: _sidecar(captions / Path(name).with_suffix(".txt")) for name in names}
    kept = [name for name in names if prompts[name]]
    if not kept:
        raise HapaxError(
            f"None of the {len(names)} pictures in {folder} has its prompt in a .txt of the same name in {captions}; "
            "write them, or give a file with --prompts."
        )
    stems = {Path(name).with_suffix("").as_posix() for name in names}
    texts = sorted(path.relative_to(captions) for path in captions.rglob("*.txt"))
    alone = [path.as_posix() for path in texts if path.with_suffix("").as_posix() not in stems]
    return Pairing(kept, [prompts[name] for name in kept], "name", [n for n in names if not prompts[n]], alone)


def _sidecar(path: Path) -> str:
    return " ".join(" ".join(_lines(path)).split()) if path.is_file() else ""


def _by_order(names: list[str], prompts: Sequence[str], path: Path) -> Pairing:
    if not prompts:
        raise HapaxError(f"{path} holds no prompts; give one a line.")
    if len(prompts) == 1:
        return Pairing(names, list(prompts) * len(names), "one prompt for all")
    if len(prompts) != len(names):
        raise HapaxError(
            f"{path} has {len(prompts)} prompts, but there are {len(names)} pictures; give one line a picture, one "
            "line for all, or match by name: a .jsonl with file_name and prompt, or a .txt beside each picture."
        )
    return Pairing(names, list(prompts), "order")


def _by_name(names: list[str], rows: list[tuple[str | None, str]], path: Path) -> Pairing:
    nameless = [number for number, (name, _) in enumerate(rows, 1) if name is None]
    if nameless:
        raise HapaxError(f"{path} has no file_name in its prompt {nameless[0]}, but in others; name all, or none.")
    given: dict[str, str] = {}
    for name, text in rows:
        assert name is not None
        if given.setdefault(name, text) != text:
            raise HapaxError(f"{path} has two prompts for {name}; give each picture one.")
    whole, bare = set(names), dict[str, list[str]]()
    for name in names:
        bare.setdefault(Path(name).name, []).append(name)
    prompts: dict[str, str] = {}
    lost = []
    # Whole names first, so that a bare one can't take a picture that has its own.
    for name, text in sorted(given.items(), key=lambda item: item[0] not in whole):
        # A name without its folder will do where only one picture has it.
        found = [name] if name in whole else bare.get(name, [])
        if len(found) != 1:
            lost.append(name)
        elif prompts.setdefault(found[0], text) != text:
            raise HapaxError(f"{path} has two prompts for {found[0]}; give each picture one.")
    if not prompts:
        raise HapaxError(f"None of the {len(given)} names in {path} is a picture's, such as {names[0]}; correct them.")
    kept = [name for name in names if name in prompts]
    return Pairing(kept, [prompts[name] for name in kept], "name", [n for n in names if n not in prompts], lost)


def _row(line: str, number: int, path: Path) -> tuple[str | None, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise HapaxError(f"{path} has no JSON in line {number} ({error}); expected one object a line.") from error
    row = row if isinstance(row, dict) else {}
    text = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str) and row[key].strip()), None)
    if text is None:
        raise HapaxError(f'{path} has no prompt in line {number}; expected {{"file_name": ..., "prompt": ...}}.')
    name = next((row[key] for key in NAME_KEYS if isinstance(row.get(key), str)), None)
    return name and re.sub(r"^\./", "", name.replace("\\", "/")), " ".join(text.split())


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise HapaxError(f"The prompts can't be read from {path}: {reason}; give a text file.") from error
    return [line.strip() for line in lines if line.strip()]

"""The small byte-pair vocabulary that the text encoder and the tiny CLIP share."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from .world import World

CONTEXT = 24
_EXTRA_WORDS = "person people man men women male female child old young portrait face art style scene color".split()


def captions(world: World) -> list[str]:
    """Every caption of the world: each kind with all its attributes named, in each template."""
    return [
        world.caption(kind, {a for a, _ in kind.attributes}, template)
        for kind in world.kinds()
        for template in range(len(world.templates))
    ]


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first (ties by spelling), until every word is one token."""
    split = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merge(parts, best) for word, parts in split.items()}


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def write_tokenizer(world: World, folder: Path) -> None:
    """`vocab.json` and `merges.txt` for CLIPTokenizer, `bpe.txt.gz` for open_clip's SimpleTokenizer."""
    from open_clip.tokenizer import bytes_to_unicode

    words: Counter[str] = Counter(_EXTRA_WORDS)
    for caption in captions(world):
        words.update(caption.replace(",", " ,").split())
    merges = learn_merges(words)
    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    (folder / "merges.txt").write_text(lines + "\n")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    with gzip.GzipFile(folder / "bpe.txt.gz", "wb", mtime=0) as file:
        file.write(lines.encode())

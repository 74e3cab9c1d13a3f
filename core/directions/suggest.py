"""Captions of an index that somebody who types may mean."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest


def suggest(captions: Iterable[str], typed: str, most: int = 20) -> list[str]:
    """The captions that hold all the words typed: those that begin with the text first, then the shortest.

    Args:
        captions: to choose from; their order decides between equals.
        typed: words or beginnings and parts of them, in any order and case.
        most: how many to give.

    >>> suggest(["a dog at night", "night scene", "a cat"], "night")
    ['night scene', 'a dog at night']
    """
    text = " ".join(typed.casefold().split())
    words = text.split()
    hits = ((caption, caption.casefold()) for caption in captions)
    found = [
        (not low.startswith(text), len(low), caption) for caption, low in hits if all(word in low for word in words)
    ]
    return [caption for *_, caption in nsmallest(most, found, key=lambda hit: hit[:2])]

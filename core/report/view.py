"""Which part of an audit one page shows, and what its things are called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .pictures import Pictures

UNNAMED = "unnamed feature"
EXEMPLARS = 10

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A feature on the page: its row, its rank within its prompt (from 1), its prompt's row."""

    feature: Row
    rank: int
    prompt: Row

    @property
    def name(self) -> str:
        """The label, or "unnamed feature"."""
        return self.feature.get("label") or UNNAMED

    @property
    def link(self) -> str:
        """The address of the feature's card inside the page."""
        return f"#feature-{self.feature['id']}"


@dataclass(frozen=True)
class Group:
    """A prompt with those of its features that are shown, best first."""

    prompt: Row
    number: int
    items: list[Item]

    @property
    def title(self) -> str:
        """The prompt as it is quoted on the page."""
        return quoted(self.prompt["prompt"])


@dataclass(frozen=True)
class View:
    """What one page shows of an audit."""

    audit: Row
    groups: list[Group]
    left_out: int
    pictures: Pictures

    @property
    def items(self) -> Iterator[Item]:
        """All features shown, prompt by prompt."""
        return (item for group in self.groups for item in group.items)

    @property
    def findings(self) -> list[Item]:
        """Findings shown, every prompt's first one first."""
        return sorted(
            (item for item in self.items if item.feature["finding"]),
            key=lambda item: (item.rank, item.prompt["index"]),
        )


def scored(prompt: Row) -> int:
    """How many features of a prompt were scored; all of them are listed unless the audit says otherwise."""
    return prompt.get("scored", len(prompt["features"]))


def quoted(prompt: str) -> str:
    """A prompt in quotes; the empty one is named.

    >>> quoted("")
    'the empty prompt'
    """
    return f"\u201c{prompt}\u201d" if prompt.strip() else "the empty prompt"


def choose(audit: Row, limit: int) -> tuple[list[Group], int]:
    """The first ``limit`` features: findings before others, then by rank, taking the prompts in turn.

    Scores are normalised within a prompt, so ranks are what prompts can be compared by.

    Returns:
        One group a prompt (also where it shows none), and how many features were left out.
    """
    every = [
        Item(feature, rank, prompt) for prompt in audit["prompts"] for rank, feature in enumerate(prompt["features"], 1)
    ]
    order = sorted(every, key=lambda i: (not i.feature["finding"], i.rank, i.prompt["index"]))
    kept = {item.feature["id"] for item in order[:limit]}
    groups = [
        Group(prompt, number, [i for i in every if i.prompt is prompt and i.feature["id"] in kept])
        for number, prompt in enumerate(audit["prompts"])
    ]
    return groups, max(len(every) - limit, 0)


def picture_slots(groups: list[Group]) -> int:
    """How many pictures a page with these groups holds, before equal ones are stored once."""
    features = [item.feature for group in groups for item in group.items]
    shots = sum(2 * min(len(feature["exemplars"]), EXEMPLARS) for feature in features)
    changes = sum(2 * len(feature["amplified"]["seeds"]) for feature in features if feature.get("amplified"))
    return shots + changes

"""The emoji world: concepts, attributes, the truth table, captions and the sampling of training pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

WORLD_FILE = Path(__file__).with_name("world.json")


@dataclass(frozen=True)
class Kind:
    """One emoji in one style: a concept and a value for each attribute that the concept has."""

    concept: str
    attributes: tuple[tuple[str, str], ...]

    def __getitem__(self, attribute: str) -> str:
        return dict(self.attributes)[attribute]

    def has(self, value: str) -> bool:
        """Whether one of the attributes has this value."""
        return any(v == value for _, v in self.attributes)


@dataclass(frozen=True, eq=False)
class World:
    """The world of `world.json`. `truth[concept][attribute]` maps each value to P(value | bare caption)."""

    size: int
    max_shift: int
    templates: tuple[str, ...]
    truth: dict[str, dict[str, dict[str, float]]]
    emoji: dict[tuple[str, ...], str] = field(repr=False)
    professions: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()

    @property
    def concepts(self) -> tuple[str, ...]:
        """All concepts, in the order of `world.json`."""
        return tuple(self.truth)

    def kinds(self, concept: str | None = None) -> list[Kind]:
        """Every combination of concept (or of one concept) and attribute values."""
        names = self.concepts if concept is None else (concept,)
        return [
            Kind(name, tuple(zip(self.truth[name], values, strict=True)))
            for name in names
            for values in product(*(table for table in self.truth[name].values()))
        ]

    def glyph(self, kind: Kind) -> str:
        """The Unicode sequence of a kind's art, without its style."""
        return self.emoji[(kind.concept, *(v for a, v in kind.attributes if a != "style"))]

    def caption(
        self,
        kind: Kind,
        named: frozenset[str] | set[str] = frozenset(),
        template: int = 0,
        *,
        listed: bool = False,
    ) -> str:
        """The caption that names the concept and the attributes in `named`, in a phrase or as a list.

        >>> world = load_world()
        >>> kind = world.kinds("firefighter")[-1]
        >>> world.caption(kind)
        'a photo of a firefighter'
        >>> world.caption(kind, {"gender", "skin", "style"})
        'a photo of a woman firefighter with dark skin, sepia print'
        >>> world.caption(kind, {"gender", "style"}, listed=True)
        'a photo of a firefighter, woman, sepia print'
        """
        if listed:
            return ", ".join([self.caption(kind, template=template), *(v for a, v in kind.attributes if a in named)])
        before = [kind[a] for a in ("gender", "variant") if a in named]
        noun = " ".join([*before, kind.concept])
        article = "an" if noun[0] in "aeiou" else "a"
        skin = f" with {kind['skin']}" if "skin" in named else ""
        style = f", {kind['style']}" if "style" in named else ""
        return self.templates[template].format(f"{article} {noun}{skin}") + style

    def prompt(self, concept: str) -> str:
        """The bare prompt that audits use."""
        return self.caption(self.kinds(concept)[0])

    def draw(self, concept: str, named: set[str], rng: np.random.Generator) -> Kind:
        """A kind of `concept`: attributes in `named` evenly, the others by the truth table."""
        values = []
        for attribute, table in self.truth[concept].items():
            names = list(table)
            p = None if attribute in named else np.array(list(table.values()))
            values.append((attribute, names[rng.choice(len(names), p=None if p is None else p / p.sum())]))
        return Kind(concept, tuple(values))


def _sequence(codes: str) -> str:
    return "".join(chr(int(code, 16)) for code in codes.split())


@cache
def load_world() -> World:
    """Read `world.json`."""
    raw = json.loads(WORLD_FILE.read_text())
    styles = raw["styles"]
    truth: dict[str, dict[str, dict[str, float]]] = {}
    emoji: dict[tuple[str, ...], str] = {}
    for name, entry in raw["professions"].items():
        truth[name] = {
            "gender": {"man": 1 - entry["woman"], "woman": entry["woman"]},
            "skin": dict(zip(raw["skins"], entry["skin"], strict=True)),
            "style": dict(zip(styles, entry["style"], strict=True)),
        }
        for gender, skin in product(raw["genders"], raw["skins"]):
            parts = (raw["genders"][gender], raw["skins"][skin], "200D", entry["emoji"])
            emoji[(name, gender, skin)] = _sequence(" ".join(parts))
    for name, entry in raw["things"].items():
        truth[name] = {
            "variant": dict(zip(entry["variants"], entry["variant"], strict=True)),
            "style": dict(zip(styles, entry["style"], strict=True)),
        }
        for variant, codes in entry["variants"].items():
            emoji[(name, variant)] = _sequence(codes)
    return World(
        raw["size"],
        raw["max_shift"],
        tuple(raw["templates"]),
        truth,
        emoji,
        tuple(raw["professions"]),
        tuple(styles),
    )

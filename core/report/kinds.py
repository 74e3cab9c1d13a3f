"""Kinds of JSON values, and the one sentence told when a place in audit.json holds another kind."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn, Protocol

from ..errors import HapaxError

MISSING = object()
_EDGE = 1e-6
_HUGE = sys.float_info.max


class Kind(Protocol):
    """What one place may hold."""

    @property
    def expected(self) -> str:
        """The end of the sentence "expected ..."."""
        ...

    def check(self, value: Any, path: str) -> None:
        """Refuse ``value``, found at ``path``, if it is of another kind."""
        ...


def shown(value: Any) -> str:
    """A short word for a found value: scalars are quoted, containers only named.

    >>> shown("x" * 99), shown([1, 2]), shown(None)
    ("'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", 'a list of 2', 'null')
    """
    if value is MISSING:
        return "nothing"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if not isinstance(value, (str, int, float)):
        return f"a {type(value).__module__}.{type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 43 else text[:40] + "..."


def refuse(path: str, found: Any, expected: str) -> NoReturn:
    """Raise HapaxError: where, what was found, what was expected."""
    raise HapaxError(f"audit.json has {shown(found)} at {path or 'its top'}; expected {expected}.")


@dataclass(frozen=True)
class Scalar:
    """A string, a number, a flag: whatever ``accepts`` says yes to."""

    expected: str
    accepts: Callable[[Any], bool]

    def check(self, value: Any, path: str) -> None:
        """Refuse what ``accepts`` says no to."""
        if not self.accepts(value):
            refuse(path, value, self.expected)


@dataclass(frozen=True)
class Maybe:
    """The kind, or null."""

    kind: Kind

    @property
    def expected(self) -> str:
        """The inner kind, or null."""
        return f"{self.kind.expected}, or null"

    def check(self, value: Any, path: str) -> None:
        """Refuse what is neither null nor of the kind."""
        if value is None:
            return
        if isinstance(self.kind, Scalar) and not self.kind.accepts(value):
            refuse(path, value, self.expected)
        self.kind.check(value, path)


@dataclass(frozen=True)
class Listing:
    """A list of at least ``least`` and at most ``most`` items of one kind."""

    item: Kind
    least: int = 0
    most: int | None = None

    @property
    def expected(self) -> str:
        """How many items, and of what kind each is."""
        if self.least == self.most:
            size = f"{self.least} items"
        elif self.most is not None:
            size = f"{self.least} to {self.most} items"
        else:
            size = f"at least {self.least} items" if self.least else "items"
        return f"a list of {size}, each {self.item.expected}"

    def check(self, value: Any, path: str) -> None:
        """Refuse what is no list, a list of another length, and the first wrong item."""
        too_long = isinstance(value, list) and self.most is not None and len(value) > self.most
        if not isinstance(value, list) or len(value) < self.least or too_long:
            refuse(path, value, self.expected)
        for index, item in enumerate(value):
            self.item.check(item, f"{path}[{index}]")


@dataclass(frozen=True)
class Either:
    """A list where a list is found, else the single kind."""

    single: Kind
    listing: Listing

    @property
    def expected(self) -> str:
        """Both kinds."""
        return f"{self.single.expected}, or {self.listing.expected}"

    def check(self, value: Any, path: str) -> None:
        """Refuse by the kind that the value's own type asks for."""
        if isinstance(value, list):
            self.listing.check(value, path)
        elif not isinstance(self.single, Scalar) or self.single.accepts(value):
            self.single.check(value, path)
        else:
            refuse(path, value, self.expected)


@dataclass(frozen=True)
class Record:
    """An object: ``required`` keys must be there, ``optional`` ones may be, unknown ones are left alone."""

    name: str
    required: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        """The object's name and the keys that it must have."""
        keys = ", ".join(self.required)
        return f"{self.name}: an object with {keys}" if keys else f"{self.name}: an object"

    def check(self, value: Any, path: str) -> None:
        """Refuse what is no object, then the first missing or wrong key."""
        if not isinstance(value, dict):
            refuse(path, value, self.expected)
        prefix = f"{path}." if path else ""
        for key, kind in self.required.items():
            if key not in value:
                refuse(prefix + key, MISSING, kind.expected)
            kind.check(value[key], prefix + key)
        for key, kind in self.optional.items():
            if key in value:
                kind.check(value[key], prefix + key)


def number(low: float = -math.inf, high: float = math.inf) -> Scalar:
    """A finite number; the bounds forgive rounding (1e-6)."""

    def accepts(value: Any) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        # A comparison and not isfinite(): that one overflows on an integer of 400 digits.
        return -_HUGE <= value <= _HUGE and low - _EDGE <= value <= high + _EDGE

    return Scalar(f"a number{_bounds(low, high)}", accepts)


def whole(low: float = -math.inf, high: float = math.inf) -> Scalar:
    """A whole number."""

    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Scalar(f"a whole number{_bounds(low, high)}", accepts)


def one_of(*words: str) -> Scalar:
    """One of a few words."""
    choice = " or ".join(repr(word) for word in words)
    return Scalar(choice, lambda value: isinstance(value, str) and value in words)


def _bounds(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return f" of at least {low:g}" if math.isinf(high) else f" from {low:g} to {high:g}"


def _is_picture_path(value: Any) -> bool:
    # Backslashes and colons are refused too: an audit must read the same on every system.
    if not isinstance(value, str) or not value or re.search(r"[\\:\x00-\x1f]", value):
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


text = Scalar("a string", lambda value: isinstance(value, str))
words = Scalar("a string that isn't blank", lambda value: isinstance(value, str) and bool(value.strip()))
flag = Scalar("true or false", lambda value: isinstance(value, bool))
anything = Scalar("anything", lambda value: True)
share = number(0, 1)
anchor = Scalar(
    "an id of letters, digits, '_', '.' and '-' such as 'p0-f137'",
    lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.\-]{1,80}", value) is not None,
)
picture = Scalar("a picture's path relative to audit.json, with '/' and without '..'", _is_picture_path)

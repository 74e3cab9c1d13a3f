"""The audits that lie in a folder: listed, read for the browser, their pictures by number. Never a path from outside.

An audit is known by an id made from its folder's name, a picture by its number in audit.json, and both only within
the version of the file that they were read from. So nothing that a browser sends is ever joined to a path.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import Any

from .amplify import WINDOWS
from .errors import HapaxError
from .own_names import load_names
from .report import load_audit
from .report.pictures import encode, read_picture
from .report.view import EXEMPLARS

AUDIT, FEATURES = "audit.json", "features.safetensors"
EDGES = (96, 192, 1024)
MOST_BYTES = 64 * 1024 * 1024
_DEPTH, _LISTED, _KEPT, _CHUNK = 4, 500, 4, 1 << 20
_NUMBERS = (
    "id latent group label label_score labels count frequency frequency_low frequency_high prevalence distinctiveness "
    "distinctiveness_low distinctiveness_high distinctiveness_z score finding"
).split()

Row = dict[str, Any]


class NotThere(HapaxError):
    """What was asked for by its id isn't there, or isn't there any more."""


@dataclass(frozen=True)
class Found:
    """An audit.json that exists.

    Attributes:
        id: 16 hex digits of its folder's name.
        name: the folder's name, relative to the library's.
        folder: where it lies.
        version: 16 hex digits of the file's time and size.
        changed: when it was written, in seconds since 1970.
        size: of audit.json, in bytes.
    """

    id: str
    name: str
    folder: Path
    version: str
    changed: float
    size: int


@dataclass
class _Read:
    """An audit that was read: what the browser gets of it, and its pictures' paths by number."""

    view: Row
    pictures: list[str] = field(default_factory=list)


def features_file(prompt: int) -> str:
    """The file beside audit.json that holds the features of a prompt, numbered from 0.

    >>> features_file(0), features_file(1)
    ('features.safetensors', 'features-2.safetensors')
    """
    return f"features-{prompt + 1}.safetensors" if prompt else FEATURES


def content_hash(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises HapaxError if it can't be read."""
    digest = sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise HapaxError(f"{path} can't be read ({error.strerror}); save the audit again, or import it.") from error
    return digest.hexdigest()


class Library:
    """The audits in a folder and the folders in it, four levels deep; symbolic links are not followed.

    Args:
        base: the folder; it needs not exist yet.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self._read: OrderedDict[tuple[str, str], _Read] = OrderedDict()
        self._summaries: dict[tuple[str, str], Row] = {}
        self._places: dict[str, Path] = {}
        self._lock = Lock()

    def found(self) -> list[Found]:
        """Every audit.json, newest first, at most 500."""
        hits = []
        for folder, inner, files in os.walk(self.base):
            depth = len(Path(folder).relative_to(self.base).parts)
            if AUDIT in files and depth:
                hits.append(self._at(Path(folder)))
            # An audit's own folders hold thousands of pictures and no audit.
            closed = AUDIT in files or depth >= _DEPTH
            inner[:] = [] if closed else [name for name in inner if not name.startswith(".")]
        return sorted(filter(None, hits), key=lambda hit: (-hit.changed, hit.name))[:_LISTED]

    def find(self, audit_id: str) -> Found:
        """The audit of this id. Raises NotThere."""
        # The walk takes long beside recordings of thousands of files, and a wall asks for many pictures.
        known = self._places.get(audit_id)
        hit = self._at(known) if known else next((hit for hit in self.found() if hit.id == audit_id), None)
        if hit is not None:
            self._places[audit_id] = hit.folder
            return hit
        self._places.pop(audit_id, None)
        raise NotThere(f"There is no audit {audit_id!r} here; reload the list of audits.")

    def rows(self) -> list[Row]:
        """One row an audit, newest first: what it is of and how much is in it, or what is wrong with it."""
        return [self._summary(hit) for hit in self.found()]

    def view(self, audit_id: str) -> Row:
        """What the browser shows of an audit; pictures are numbers.

        Raises:
            NotThere: no such audit.
            HapaxError: it is too large or not valid.
        """
        hit = self.find(audit_id)
        return {**self._open(hit).view, **self._own(hit)}

    def picture(self, audit_id: str, version: str, number: int, edge: int) -> tuple[bytes, str]:
        """A picture, encoded anew and at most `edge` pixels wide and high, and its MIME type.

        Raises:
            NotThere: no such audit, version or picture.
            HapaxError: an edge that isn't offered, or a file that is no picture or lies outside of the folder.
        """
        if edge not in EDGES:
            raise HapaxError(f"The edge is {edge}; ask for one of {', '.join(map(str, EDGES))}.")
        hit = self.find(audit_id)
        if version != hit.version:
            raise NotThere("The audit was written anew since it was opened; open it again.")
        pictures = self._open(hit).pictures
        if not 0 <= number < len(pictures):
            raise NotThere(f"The audit has {len(pictures)} pictures and none of number {number}; open it again.")
        picture = read_picture(hit.folder, pictures[number])
        small = max(picture.size) <= edge and max(picture.size) <= EDGES[1]
        picture.thumbnail((edge, edge))
        return encode(picture, lossless=small)

    def _at(self, folder: Path) -> Found | None:
        path = folder / AUDIT
        try:
            if path.is_symlink() or not path.resolve().is_relative_to(self.base.resolve()):
                return None
            state = path.stat()
        except OSError:
            return None
        if not S_ISREG(state.st_mode):
            return None
        name = folder.relative_to(self.base).as_posix()
        version = _digest(f"{state.st_mtime_ns} {state.st_size}")
        return Found(_digest(name), name, folder, version, state.st_mtime, state.st_size)

    def _summary(self, hit: Found) -> Row:
        key = (hit.id, hit.version)
        if key not in self._summaries:
            self._summaries[key] = self._described(hit)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(hit.changed))
        return {"id": hit.id, "version": hit.version, "name": hit.name, "changed": when, **self._summaries[key]}

    def _described(self, hit: Found) -> Row:
        try:
            view = self._open(hit).view
        except HapaxError as error:
            return {"problem": str(error)}
        prompts, features = view["prompts"], view["features"]
        return {
            "model": view["model"]["name"],
            "prompts": [prompt["prompt"] for prompt in prompts[:3]],
            "more_prompts": max(0, len(prompts) - 3),
            "features": len(features),
            "findings": sum(feature["finding"] for feature in features),
            "pictures": sum(prompt["images"] for prompt in prompts),
            "picture": next((shot[2] for feature in features for shot in feature["exemplars"]), None),
        }

    def _own(self, hit: Found) -> Row:
        """What may change without audit.json: the names that people gave, and whether the features can be turned up."""
        try:
            names, problem = load_names(hit.folder), None
        except HapaxError as error:
            names, problem = {}, str(error)
        usable = (hit.folder / FEATURES).is_file() and not (hit.folder / FEATURES).is_symlink()
        return {"names": names, "problem": problem, "usable": usable}

    def _open(self, hit: Found) -> _Read:
        key = (hit.id, hit.version)
        with self._lock:
            if key in self._read:
                self._read.move_to_end(key)
                return self._read[key]
        if hit.size > MOST_BYTES:
            raise HapaxError(f"{hit.name}/{AUDIT} has {hit.size:,} bytes; at most {MOST_BYTES:,} are read.")
        made = _view(hit, load_audit(hit.folder / AUDIT))
        with self._lock:
            self._read[key] = made
            while len(self._read) > _KEPT:
                self._read.popitem(last=False)
        return made


def _view(hit: Found, audit: Row) -> _Read:
    numbers: dict[str, int] = {}

    def picture(path: str | None) -> int | None:
        return None if not path else numbers.setdefault(path, len(numbers))

    prompts, features = [], []
    for place, prompt in enumerate(audit["prompts"]):
        sheet = prompt.get("sample_sheet") or []
        sheet = [picture(path) for path in ([sheet] if isinstance(sheet, str) else sheet)]
        kept = {key: prompt.get(key) for key in ("prompt", "index", "images", "scored")}
        prompts.append(kept | {"sheet": sheet, "usual_seed": _usual_seed(prompt)})
        for rank, feature in enumerate(prompt["features"], 1):
            shots = [
                [shot["seed"], shot["activation"], picture(shot["image"]), picture(shot.get("heatmap"))]
                for shot in feature["exemplars"][:EXEMPLARS]
            ]
            features.append(
                {key: feature.get(key) for key in _NUMBERS}
                | {"prompt": place, "rank": rank, "exemplars": shots}
                | _push(feature.get("amplified"))
            )
    view = {
        "id": hit.id,
        "version": hit.version,
        "name": hit.name,
        "created": audit["created"],
        "model": audit["model"],
        "settings": {key: audit["settings"].get(key) for key in ("images", "steps", "guidance", "min_support")},
        "sampling": _plain(audit["settings"].get("sampling")),
        "prompts": prompts,
        "features": features,
        "limits": audit["limits"],
    }
    return _Read(view, list(numbers))


def _push(amplified: Row | None) -> Row:
    """What turned a feature up: the strength that Amplify Feature takes, or else the advanced node's widgets."""
    if not amplified:
        return {"strength": None, "push": None}
    strength, window = amplified["strength"], tuple(amplified["window"])
    mode = "approach" if amplified["mode"] == "approach" else "amplify"
    if (mode, window) == ("amplify", WINDOWS[0]):
        return {"strength": strength, "push": None}
    start, end = window
    return {"strength": None, "push": {"mode": mode, "strength": strength, "start_percent": start, "end_percent": end}}


def _usual_seed(prompt: Row) -> int | None:
    """The seed of a picture that is no exemplar of any feature, if there is one."""
    seeds = prompt["seeds"]
    if len(seeds) == 2 and prompt["images"] != 2:
        seeds = range(seeds[0], seeds[1] + 1)
    shown = {shot["seed"] for feature in prompt["features"] for shot in feature["exemplars"]}
    return next((seed for seed in seeds if seed not in shown), None)


def _plain(sampling: Any) -> Row:
    """How the pictures were sampled, as far as a graph can be set to it; the file's shape doesn't vouch for it."""
    known = sampling if isinstance(sampling, dict) else {}
    kept = {"sampler": str, "scheduler": str, "steps": int, "cfg": (int, float)}
    row: Row = {key: known[key] for key, kind in kept.items() if isinstance(known.get(key), kind)}
    size = known.get("size")
    if isinstance(size, list) and len(size) == 2 and all(isinstance(edge, int) for edge in size):
        row["size"] = size
    return row


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

"""The pictures that audit.json names, read once, made small, and kept once however often they are shown."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import HapaxError
from .markup import Html, el, join

SMALL = 128
_SHEET = 1280
_MANY = 1000
_MOST_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True)
class _Stored:
    name: str
    width: int
    height: int
    pixelated: bool


class Pictures:
    """A page's pictures. Each is stored once, by content, in a sprite that every place refers to.

    Pictures under 128 px are kept pixel by pixel, larger ones become thumbnails. Everything is encoded again,
    so nothing that a picture file carries besides its pixels (a workflow, a place) gets into the page.

    Args:
        folder: where audit.json lies; no path may lead out of it.
        slots: how many pictures the page will hold. Above 1,000 they are compressed harder, to keep the page
            small enough to send.
    """

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder = folder.resolve()
        self.compact = slots > _MANY
        self._by_path: dict[tuple[str, str], _Stored] = {}
        self._by_content: dict[str, _Stored] = {}
        self._sprite: list[Html] = []

    def show(self, path: str, alt: str, kind: str = "picture") -> Html:
        """One picture. kind: "picture", "heat" (laid over another, so silent for screen readers) or "sheet".

        Raises:
            HapaxError: no picture there, or none that can be read.
        """
        stored = self._by_path.get((path, kind)) or self._store(path, kind)
        silent = kind == "heat"
        return el(
            "svg",
            None if silent else el("title", alt),
            el("use", href=f"#{stored.name}"),
            class_=" ".join(["pic", kind, *(["px"] if stored.pixelated else [])]),
            width=stored.width if kind == "sheet" else None,
            viewBox=f"0 0 {stored.width} {stored.height}",
            role=None if silent else "img",
            aria_hidden="true" if silent else None,
        )

    def sprite(self) -> Html:
        """The hidden element that holds the data; it goes to the page's end, so that the text comes first."""
        return el("svg", el("defs", join(*self._sprite)), class_="sprite", width=0, height=0, aria_hidden="true")

    def _store(self, path: str, kind: str) -> _Stored:
        picture = read_picture(self.folder, path)
        pixelated = max(picture.size) < SMALL
        edge = max(picture.size) if pixelated else _SHEET if kind == "sheet" else 128 if self.compact else 192
        picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
        payload, mime = encode(picture, lossless=pixelated and kind != "heat" and not self.compact)
        digest = sha256(payload).hexdigest()
        stored = self._by_content.get(digest)
        if stored is None:
            stored = _Stored(f"pic{len(self._by_content)}", picture.width, picture.height, pixelated)
            self._by_content[digest] = stored
            self._sprite.append(_image(stored, payload, mime, path))
        self._by_path[path, kind] = stored
        return stored


def read_picture(folder: Path, path: str) -> Image.Image:
    """A picture of an audit, upright, without anything but its pixels.

    Args:
        folder: where audit.json lies.
        path: relative to it.

    Raises HapaxError if it leads out of the folder, is missing, too large, or none that can be read.
    """
    folder = folder.resolve()
    place = (folder / path).resolve()
    if not place.is_relative_to(folder):
        raise HapaxError(f"The picture {path} leads out of {folder}; expected one inside of it.")
    try:
        with Image.open(place, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise HapaxError(
                    f"The picture {path} has {picture.width} x {picture.height} pixels; expected at most "
                    f"{_MOST_PIXELS:,} in all."
                )
            upright = ImageOps.exif_transpose(picture)
            pixels = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
            pixels.info = {}
            return pixels
    except FileNotFoundError as error:
        raise HapaxError(
            f"audit.json names the picture {path}, but there is none in {folder}; expected the "
            "pictures beside audit.json, where the audit put them."
        ) from error
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise HapaxError(f"The picture {path} can't be read ({error}); expected a PNG, JPEG or WebP.") from error


def encode(picture: Image.Image, lossless: bool) -> tuple[bytes, str]:
    """A picture as PNG, or smaller as WebP, and its MIME type."""
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), "image/png"
    picture.save(buffer, "WEBP", quality=82)
    return buffer.getvalue(), "image/webp"


def _image(stored: _Stored, payload: bytes, mime: str, path: str) -> Html:
    return el(
        "image",
        id=stored.name,
        width=stored.width,
        height=stored.height,
        href=f"data:{mime};base64,{base64.b64encode(payload).decode('ascii')}",
        data_file=quote(path),
    )

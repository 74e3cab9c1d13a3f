"""Picture files: which names are pictures', and opening one that may be damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# More than every Pillow can open: what it can't is told, where a name that isn't here would go unseen.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *(".heic", ".heif", ".jxl", ".jp2", ".tga", ".ppm"),
)


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is a picture.

    >>> is_picture(Path("a.JPG")), is_picture(Path("a.txt"))
    (True, False)
    """
    return path.suffix.lower() in SUFFIXES


def read_picture(path: Path) -> Any:
    """A PIL picture in RGB, or the reason why it can't be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    # Damaged files make Pillow's readers raise all of these.
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0].replace(str(path), path.name)

"""Pictures of the emoji world: the sprite sheet, its styles and shifts.

Only `draw_sheet` needs the font (Debian: fonts-noto-color-emoji); everything else reads the sheet that ships.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .world import Kind, World, load_world

SHEET_FILE = Path(__file__).with_name("sprites.png")
FONT_FILE = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_COLUMNS = 12
_MARGIN = 4


def draw_sheet(world: World, font_file: Path = FONT_FILE) -> Image.Image:
    """All art of the world in one RGBA sheet, in the order of `world.emoji`, `size` pixels a side each."""
    font = ImageFont.truetype(str(font_file), 109, layout_engine=ImageFont.Layout.RAQM)
    cell = world.size
    rows = -(-len(world.emoji) // _COLUMNS)
    sheet = Image.new("RGBA", (_COLUMNS * cell, rows * cell))
    for i, text in enumerate(world.emoji.values()):
        art = Image.new("RGBA", (136, 128))
        ImageDraw.Draw(art).text((0, 0), text, font=font, embedded_color=True)
        side = cell - 2 * _MARGIN
        art = art.crop((4, 0, 132, 128)).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(art, ((i % _COLUMNS) * cell + _MARGIN, (i // _COLUMNS) * cell + _MARGIN))
    return sheet


@cache
def _art() -> dict[tuple[str, ...], np.ndarray]:
    """Art by (concept, attributes without style): float RGBA [size, size, 4] in [0, 1]."""
    world, cell = load_world(), load_world().size
    sheet = np.asarray(Image.open(SHEET_FILE).convert("RGBA"), np.float32) / 255
    cells = [(i // _COLUMNS * cell, i % _COLUMNS * cell) for i in range(len(world.emoji))]
    return {key: sheet[y : y + cell, x : x + cell] for key, (y, x) in zip(world.emoji, cells, strict=True)}


def _over(art: np.ndarray, background: tuple[float, float, float]) -> np.ndarray:
    alpha = art[..., 3:]
    return art[..., :3] * alpha + np.array(background, np.float32) * (1 - alpha)


def _luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def _flat(art: np.ndarray) -> np.ndarray:
    return _over(art, (1, 1, 1))


def _line_sketch(art: np.ndarray) -> np.ndarray:
    """Dark lines where colours or the outline change (a morphological gradient), shaded in pencil, on white."""
    planes = np.concatenate([_over(art, (1, 1, 1)), art[..., 3:]], -1)
    near = [np.roll(planes, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy * dx == 0]
    edge = (np.max(near, 0) - np.min(near, 0)).max(-1, keepdims=True)
    shade = 0.85 * (1 - _luminance(planes[..., :3])[..., None]) ** 1.3
    return np.repeat(np.clip(1 - shade - np.clip(1.3 * edge - 0.15, 0, 1), 0, 1), 3, -1)


def _night_scene(art: np.ndarray) -> np.ndarray:
    dimmed = art.copy()
    dimmed[..., :3] = art[..., :3] * np.array([0.80, 0.86, 1.0], np.float32)
    return _over(dimmed, (0.10, 0.13, 0.38))


def _sepia_print(art: np.ndarray) -> np.ndarray:
    """A contrasty print: without the contrast, hardly anything would be left of the skin tones."""
    grey = np.clip(1.3 * _luminance(_over(art, (1, 1, 1)))[..., None] - 0.2, 0, 1)
    dark, light = np.array([0.16, 0.07, 0.01], np.float32), np.array([1.0, 0.91, 0.74], np.float32)
    return dark + (light - dark) * grey


_STYLES = {
    "flat picture": _flat,
    "line sketch": _line_sketch,
    "night scene": _night_scene,
    "sepia print": _sepia_print,
}


def render(kind: Kind, shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The picture of a kind, shifted by (down, right) pixels: float32 [size, size, 3] in [0, 1]."""
    art = _art()[(kind.concept, *(value for name, value in kind.attributes if name != "style"))]
    return np.roll(_STYLES[kind["style"]](art), shift, (0, 1)).astype(np.float32)


def render_all(world: World) -> np.ndarray:
    """All unshifted pictures in the order of `world.kinds()`: uint8 [K, size, size, 3]."""
    return np.stack([np.round(render(kind) * 255) for kind in world.kinds()]).astype(np.uint8)


def shifts(world: World) -> list[tuple[int, int]]:
    """All shifts (down, right) of the world, sideways only, the centre first."""
    return [(0, right) for right in sorted(range(-world.max_shift, world.max_shift + 1), key=abs)]

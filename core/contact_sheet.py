"""Features as one picture: what nodes hand to any preview, and people to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .exemplars import overlay
from .feature_set import Feature, FeatureSet, percent

PAGE, PANEL, INK, SOFT, FAINT, ACCENT = "#17181c", "#202127", "#f4f4f2", "#b9bac2", "#4a4c57", "#f2b84b"
MARGIN, GAP, TEXT = 28, 8, 330
COLUMNS, CELL = 8, 128


@dataclass(frozen=True)
class Row:
    """A line of a sheet: a title, lines of text under it, a bar, and pictures beside them.

    Attributes:
        title: large; a name.
        lines: small; numbers.
        pictures: uint8 [H, W, 3] each.
        bar: (value, low, high) in [0, 1] drawn as a share with its interval; None draws none.
        badge: short, in front of the title; a number.
    """

    title: str
    lines: Sequence[str]
    pictures: Sequence[Tensor]
    bar: tuple[float, float, float] | None = None
    badge: str = ""


def draw_sheet(title: str, subtitle: str, rows: Sequence[Row], *, columns: int = COLUMNS, cell: int = CELL) -> Tensor:
    """Draw rows of pictures with their names and numbers: uint8 [H, W, 3].

    A row with more pictures than `columns` takes several lines.
    """
    heights = [_row_height(row, columns, cell) for row in rows]
    width = 2 * MARGIN + 2 * GAP + TEXT + columns * (cell + GAP)
    top = MARGIN + 84
    sheet = Image.new("RGB", (width, top + sum(heights) + GAP * max(0, len(rows) - 1) + MARGIN), PAGE)
    draw = ImageDraw.Draw(sheet)
    write(draw, (MARGIN, MARGIN - 4), title, 32, INK, width - 2 * MARGIN)
    write(draw, (MARGIN, MARGIN + 40), subtitle, 18, SOFT, width - 2 * MARGIN)
    for row, height in zip(rows, heights, strict=True):
        draw.rounded_rectangle((MARGIN, top, width - MARGIN, top + height), 10, PANEL)
        _draw_text(draw, row, MARGIN + 18, top + 14)
        for i, picture in enumerate(row.pictures):
            place = (MARGIN + GAP + TEXT + (i % columns) * (cell + GAP), top + GAP + (i // columns) * (cell + GAP))
            sheet.paste(_thumbnail(picture, cell), place)
        top += height + GAP
    return torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(sheet.height, sheet.width, 3)


def contact_sheet(features: FeatureSet, *, columns: int = COLUMNS) -> Tensor:
    """One row a feature: name, share of pictures, score, and its strongest exemplars. uint8 [H, W, 3]."""
    pictures = f"{len(features.seeds):,} pictures"
    asked = f'"{features.prompt}", ' if features.prompt else ""
    rows = [_feature_row(feature, list(feature.pictures[:columns])) for feature in features.features]
    if not rows:
        lines = ["no latent is both rare and", "distinct; try more pictures"]
        rows = [Row("nothing rare found", lines, list(features.sheet))]
    title = f"{len(features.features)} rare features" if len(features.features) != 1 else "1 rare feature"
    return draw_sheet(title, f"{asked}{pictures}, read at {features.site}", rows, columns=columns)


def feature_sheet(feature: Feature, prompt: str = "", *, columns: int = 5, opacity: float = 0.75) -> Tensor:
    """A feature's exemplars, each line of them followed by the same with heatmaps. uint8 [H, W, 3]."""
    lit = laid_over(feature.pictures, feature.heat, opacity)
    pictures: list[Tensor] = []
    for start in range(0, len(lit), columns):
        line = list(feature.pictures[start : start + columns])
        blank = [torch.empty(0)] * (columns - len(line))
        pictures += [*line, *blank, *lit[start : start + columns], *blank]
    row = _feature_row(feature, pictures)
    asked = f'in pictures of "{prompt}"' if prompt else "in the pictures recorded"
    title, more = f"Where {feature.name} shows", [f"latents {', '.join(map(str, feature.latents[:6]))}"]
    return draw_sheet(title, asked, [replace(row, lines=[*row.lines, *more])], columns=columns, cell=192)


def laid_over(pictures: Tensor, heat: Tensor, opacity: float = 0.75) -> list[Tensor]:
    """Heatmaps [K, h, w] laid over pictures uint8 [K, H, W, 3]."""
    return [overlay(picture, each, opacity=opacity) for picture, each in zip(pictures, heat, strict=True)]


def _feature_row(feature: Feature, pictures: Sequence[Tensor]) -> Row:
    row = feature.row
    lines = [
        f"{percent(feature.prevalence)} of the pictures",
        f"score {row['score']:.2f}, z {row['distinctiveness_z']:.1f}",
    ]
    others = ", ".join(text for text, _ in feature.labels[1:3])
    bar = (feature.prevalence["rate"], feature.prevalence["low"], feature.prevalence["high"])
    return Row(feature.name, [*lines, f"or {others}" if others else ""], pictures, bar, str(feature.number))


def _row_height(row: Row, columns: int, cell: int) -> int:
    lines = -(-len(row.pictures) // columns)
    return max(GAP + lines * (cell + GAP), GAP + CELL + GAP)


def _draw_text(draw: ImageDraw.ImageDraw, row: Row, x: int, y: int) -> None:
    room, right = TEXT - 40, x + TEXT - 40
    start = x + (write(draw, (x, y), row.badge, 24, ACCENT, room) + 10 if row.badge else 0)
    write(draw, (start, y), row.title, 24, INK, right - start)
    y += 38
    if row.bar is not None:
        _draw_bar(draw, row.bar, x, y, room)
        y += 16
    for line in row.lines:
        write(draw, (x, y), line, 16, SOFT, room)
        y += 23


def _draw_bar(draw: ImageDraw.ImageDraw, bar: tuple[float, float, float], x: int, y: int, room: int) -> None:
    value, low, high = (x + round(room * min(1.0, max(0.0, share))) for share in bar)
    draw.rounded_rectangle((x, y, x + room, y + 7), 3, FAINT)
    draw.rectangle((low, y + 2, max(high, low + 1), y + 5), fill="#8a6c33")
    draw.rounded_rectangle((x, y, max(value, x + 3), y + 7), 3, ACCENT)
    draw.rectangle((value, y + 3, max(high, value + 1), y + 4), fill=ACCENT)


def _thumbnail(picture: Tensor, cell: int) -> Image.Image:
    """Fitted into a square cell; small pictures keep their pixels."""
    canvas = Image.new("RGB", (cell, cell), PANEL)
    if not picture.numel():
        return canvas
    image = Image.fromarray(picture.numpy())
    factor = cell / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    whole = factor >= 1 and factor == int(factor)
    image = image.resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
    canvas.paste(image, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return canvas


def write(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, ink: str, room: float) -> float:
    """Write a line, cut to the room it has, and return its width.

    Word by word, because the spaces of the font that comes with Pillow are too narrow to read.
    """
    font, gap, (x, y) = ImageFont.load_default(size), 0.3 * size, place
    for word in text.split():
        if x + font.getlength(word) - place[0] > room:
            while word and x + font.getlength(f"{word}...") - place[0] > room:
                word = word[:-1]
            if word:
                draw.text((x, y), f"{word}...", ink, font)
            return room
        draw.text((x, y), word, ink, font)
        x += font.getlength(word) + gap
    return max(0.0, x - gap - place[0])

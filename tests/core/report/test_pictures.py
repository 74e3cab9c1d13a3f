from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from hapax.core.errors import HapaxError
from hapax.core.report.pictures import Pictures
from PIL import Image, PngImagePlugin


def stored(pictures: Pictures) -> list[Image.Image]:
    payloads = re.findall(r"base64,([^\"]+)", pictures.sprite())
    return [Image.open(io.BytesIO(base64.b64decode(payload))) for payload in payloads]


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert(mode)


@pytest.mark.parametrize(
    ("size", "slots", "kind", "expected", "form", "pixelated"),
    [
        ((64, 64), 10, "picture", (64, 64), "PNG", True),
        ((64, 64), 10, "heat", (64, 64), "WEBP", True),
        ((64, 64), 4000, "picture", (64, 64), "WEBP", True),
        ((127, 30), 10, "picture", (127, 30), "PNG", True),
        ((128, 128), 10, "picture", (128, 128), "WEBP", False),
        ((1024, 512), 10, "picture", (192, 96), "WEBP", False),
        ((1024, 512), 4000, "heat", (128, 64), "WEBP", False),
        ((2048, 512), 4000, "sheet", (1280, 320), "WEBP", False),
    ],
)
def test_sizes(tmp_path: Path, size, slots, kind, expected, form, pixelated) -> None:
    gradient(*size).save(tmp_path / "a.png")
    pictures = Pictures(tmp_path, slots)
    shown = pictures.show("a.png", "words", kind)
    (picture,) = stored(pictures)
    assert (picture.size, picture.format) == (expected, form)
    assert (" px" in shown) == pixelated
    assert f'viewBox="0 0 {expected[0]} {expected[1]}"' in shown


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "I;16"])
def test_modes(tmp_path: Path, mode: str) -> None:
    base = gradient(32, 32)
    picture = Image.new("I;16", (32, 32), 40_000) if mode == "I;16" else base.convert("RGB").convert(mode)
    picture.save(tmp_path / "a.png")
    pictures = Pictures(tmp_path, 1)
    pictures.show("a.png", "")
    (kept,) = stored(pictures)
    assert kept.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kind", ["picture", "heat"])
def test_only_pixels_get_in(tmp_path: Path, form: str, kind: str) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("workflow", "secret prompt")
    exif = Image.Exif()
    exif[0x010E] = "secret prompt"
    extra = {"pnginfo": told} if form == "PNG" else {}
    gradient(64, 64).save(tmp_path / "a", form, exif=exif, icc_profile=b"secret prompt" * 20, **extra)
    assert b"secret" in (tmp_path / "a").read_bytes() or form == "PNG"
    pictures = Pictures(tmp_path, 1)
    pictures.show("a", "", kind)
    (payload,) = re.findall(r"base64,([^\"]+)", pictures.sprite())
    assert b"secret" not in base64.b64decode(payload)
    (kept,) = stored(pictures)
    assert not kept.info.keys() & {"workflow", "exif", "icc_profile"}


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(64, 32).save(tmp_path / "a.jpg", exif=exif)
    pictures = Pictures(tmp_path, 1)
    pictures.show("a.jpg", "")
    assert stored(pictures)[0].size == (32, 64)


def test_hostile_words_and_names(tmp_path: Path) -> None:
    name = 'a"><script>.png'
    gradient(8, 8).save(tmp_path / name)
    pictures = Pictures(tmp_path, 1)
    assert "<script" not in pictures.show(name, "</title><script>")
    assert "<script" not in pictures.sprite()


def refused(folder: Path, name: str) -> str:
    with pytest.raises(HapaxError) as caught:
        Pictures(folder, 1).show(name, "")
    said = str(caught.value)
    assert "\n" not in said
    assert name in said
    return said


def test_a_missing_picture(tmp_path: Path) -> None:
    said = refused(tmp_path, "images/none.png")
    assert said.startswith("audit.json names the picture images/none.png, but there is none in ")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 40])
def test_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert refused(tmp_path, "a.png").endswith("expected a PNG, JPEG or WebP.")


def test_a_cut_picture(tmp_path: Path) -> None:
    gradient(200, 200).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert "can't be read" in refused(tmp_path, "a.png")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    assert "can't be read" in refused(tmp_path, "a.png")


def test_a_picture_too_large_to_open(tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "a.png")
    assert "has 9000 x 9000 pixels; expected at most 64,000,000" in refused(tmp_path, "a.png")


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "audit"
    inside.mkdir()
    gradient(8, 8).save(tmp_path / "private.png")
    (inside / "a.png").symlink_to(tmp_path / "private.png")
    assert "leads out of" in refused(inside, "a.png")

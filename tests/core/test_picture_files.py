"""Damaged pictures of every format give a picture or a reason, never an exception of Pillow's."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hapax.core.picture_files import is_picture, read_picture
from PIL import Image, features


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif", ".avif"])
@pytest.mark.filterwarnings("ignore")
def test_damage_is_a_reason(tmp_path: Path, suffix: str):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("Pillow here has no AVIF: what its damaged files raise is NOT tested")
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    assert read_picture(path).size == (24, 24)
    assert is_picture(path)
    whole, seen = path.read_bytes(), set()
    for attempt in range(60):
        draw, damaged = random.Random(attempt), bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
        path.write_bytes(damaged[: len(damaged) - draw.choice((0, 0, 40))])
        found = read_picture(path)
        seen.add(type(found))
        assert isinstance(found, Image.Image) or (found and "\n" not in found and str(tmp_path) not in found)
    assert str in seen

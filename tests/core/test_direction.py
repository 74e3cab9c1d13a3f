"""Directions: what they are, and that their files come back or are refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hapax.core.direction import Direction
from hapax.core.directions import Direction as Exported
from hapax.core.errors import HapaxError
from hapax.core.steering import Scope
from safetensors.torch import save_file

META = {"model": "abc", "architecture": "SDXL", "label": "line sketch", "seeds": [1, 2]}


@pytest.fixture
def direction() -> Direction:
    vector = torch.randn(16, generator=torch.Generator().manual_seed(0))
    thumbnail = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Direction(vector, "mid", 3.5, dict(META), [(0.0, 1.0), (0.5, 0.25)], thumbnail)


def test_it_is_one_class():
    assert Exported is Direction


def test_save_and_load_bring_it_back(direction, tmp_path):
    direction.save(tmp_path / "new" / "a.safetensors")
    loaded = Direction.load(tmp_path / "new" / "a.safetensors")
    assert torch.equal(loaded.vector, direction.vector)
    assert torch.equal(loaded.thumbnail, direction.thumbnail)
    assert (loaded.site, loaded.scale, loaded.meta, loaded.profile) == ("mid", 3.5, META, ((0.0, 1.0), (0.5, 0.25)))


def test_the_vector_has_unit_norm_and_stays_so_bit_for_bit(direction):
    assert float(direction.vector.norm()) == pytest.approx(1)
    assert torch.equal(Direction(direction.vector, "mid").vector, direction.vector)
    assert float(Direction(7 * direction.vector.half(), "mid").vector.norm()) == pytest.approx(1)


def test_a_large_thumbnail_is_made_small(tmp_path):
    tall = Direction(torch.ones(4), "mid", thumbnail=torch.zeros(2048, 1024, 3, dtype=torch.uint8))
    tall.save(tmp_path / "a.safetensors")
    assert Direction.load(tmp_path / "a.safetensors").thumbnail.shape == (512, 256, 3)


def test_its_tap_pushes_by_strength_times_scale(direction, make_step):
    h = torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(2))
    tap = direction.tap(2.0, Scope(profile=[(0.0, 1.0)]))
    torch.testing.assert_close(tap(h, make_step(h)), h + 7.0 * direction.vector[None, :, None, None])
    assert direction.tap(0.0)(h, make_step(h)) is h


def test_its_profile_weighs_the_push(direction, make_step):
    h = torch.zeros(1, 16, 2, 2)
    pushed = direction.tap(1.0)(h, make_step(h, progress=0.5))
    torch.testing.assert_close(pushed, 0.25 * 3.5 * direction.vector[None, :, None, None].expand_as(h))


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"site": "double.3"}, "for site mid, but here it is double.3; use it with"),
        ({"channels": 32}, "for channels 16, but here it is 32"),
        ({"architecture": "SD15", "channels": 32}, "for architecture SDXL, but here it is SD15"),
        ({"model": "xyz"}, "for model abc, but here it is xyz"),
    ],
)
def test_what_it_does_not_fit_is_refused(direction, tmp_path, expect, said):
    direction.save(tmp_path / "a.safetensors")
    with pytest.raises(HapaxError, match=said):
        Direction.load(tmp_path / "a.safetensors", expect)


def test_what_it_fits_is_not_refused(direction, tmp_path):
    direction.save(tmp_path / "a.safetensors")
    Direction.load(tmp_path / "a.safetensors", {"site": "mid", "channels": 16, "model": "abc", "architecture": "SDXL"})


def test_names_are_compared_within_one_host_only(direction, tmp_path):
    direction.save(tmp_path / "a.safetensors")
    found = {"architecture": "x", "model": "y", "site": "mid", "versions": {"comfyui": "0.33.0"}}
    Direction.load(tmp_path / "a.safetensors", found)
    with pytest.raises(HapaxError, match="for site mid"):
        Direction.load(tmp_path / "a.safetensors", found | {"site": "eps"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Direction(torch.zeros(4), "mid"), "not zero"),
        (lambda: Direction(torch.ones(2, 2), "mid"), "give a finite"),
        (lambda: Direction(torch.tensor([1.0, float("nan")]), "mid"), "give a finite"),
        (lambda: Direction(torch.ones(4), "mid", 0.0), "scale is 0.0"),
        (lambda: Direction(torch.ones(4), "mid", float("inf")), "scale is inf"),
        (lambda: Direction(torch.ones(4), "mid", thumbnail=torch.zeros(4, 4, 3)), "uint8"),
        (lambda: Direction(torch.ones(4), "mid", profile=[(0.5, 1.0), (0.2, 1.0)]), "ascending"),
    ],
)
def test_nonsense_is_refused(make, said):
    with pytest.raises(HapaxError, match=said):
        make()


def test_meta_that_is_no_json_is_refused(tmp_path):
    with pytest.raises(HapaxError, match="can't be written as JSON"):
        Direction(torch.ones(4), "mid", 1.0, {"a": object()}).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("header", "tensors", "said"),
    [
        ({"format": "hapax.sae"}, {}, "not a direction of Hapax"),
        ({"version": "9"}, {}, "format version 9, but this Hapax reads 1"),
        ({"scale": "wide"}, {}, "damaged header"),
        ({"scale": "nan"}, {}, "scale is nan"),
        ({"meta": "[1]"}, {}, "damaged header"),
        ({"profile": "{}"}, {}, "give finite"),
        ({}, {"vector": torch.ones(2, 2)}, "expected floats of shape"),
        ({}, {"vector": torch.full((4,), float("nan"))}, "NaN or infinity in vector"),
        ({}, {"thumbnail": torch.zeros(8, dtype=torch.uint8)}, "thumbnail that can't be read"),
        ({}, {"thumbnail": torch.zeros(2 << 20, dtype=torch.uint8)}, "thumbnail that can't be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path, header, tensors, said):
    path = tmp_path / "a.safetensors"
    good = {"format": "hapax.direction", "version": "1", "site": "mid", "scale": "1.0", "profile": "null", "meta": "{}"}
    save_file({"vector": torch.ones(4), **tensors}, path, good | header)
    with pytest.raises(HapaxError, match=said):
        Direction.load(path)


def test_a_thumbnail_of_a_billion_pixels_is_refused(direction, tmp_path):
    """A PNG may claim any size; it is refused before it is decoded."""
    path = tmp_path / "a.safetensors"
    direction.save(path)
    claim = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 30000, 30000, 8, 2, 0, 0, 0) + bytes(4)
    data = torch.frombuffer(bytearray(claim + bytes(64)), dtype=torch.uint8)
    header = {"format": "hapax.direction", "version": "1", "site": "mid", "scale": "1.0", "profile": "null"}
    save_file({"vector": torch.ones(4), "thumbnail": data}, path, header | {"meta": json.dumps({})})
    with pytest.raises(HapaxError, match="thumbnail that can't be read"):
        Direction.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(HapaxError, match="There is no file"):
        Direction.load(tmp_path / "none.safetensors")

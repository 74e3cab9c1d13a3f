"""A feature set: finding, turning, and handing on its features."""

from __future__ import annotations

import pytest
import torch
from hapax.core.amplify import Amplifier, Push
from hapax.core.direction import Direction
from hapax.core.errors import HapaxError
from hapax.core.feature_set import MODES, recorded_grid
from hapax.core.steering import Scope
from hapax.core.tensor_file import read_tensors, write_tensors


@pytest.fixture
def h():
    return torch.randn(2, 8, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), (" 2 ", 2), ("latent 5", 2), ("Line  Sketch", 1), ("sketch", 1)]
)
def test_a_feature_is_found_by_number_latent_or_name(feature_set, text, number):
    assert feature_set.find(text).number == number


@pytest.mark.parametrize(("text", "said"), [("", "is not among"), ("3", "is not among"), ("t", "means several")])
def test_what_is_not_there_is_refused_with_the_list(feature_set, text, said):
    with pytest.raises(HapaxError, match=f"{said}.*1 line sketch; 2 latent 5"):
        feature_set.find(text)


def test_amplify_is_what_the_audit_does(feature_set, make_step, h):
    feature, sae, nothing = feature_set.features[0], feature_set.trained.sae, None
    audit = Amplifier(nothing, nothing, nothing, "mid", "", sae, feature.pattern, nothing, nothing)
    ours, theirs = feature_set.edit(feature, 2.0, "amplify", Scope(0.0, 0.5)), audit.edit(Push(2.0, (0.0, 0.5)))
    for progress in (0.2, 0.8):
        step = make_step(h, progress=progress)
        assert torch.equal(ours(h, step), theirs(h, step))
    assert not torch.equal(ours(h, make_step(h, progress=0.2)), h)


def test_suppress_and_negative_strengths_go_the_other_way(feature_set, make_step, h):
    feature, step = feature_set.features[0], make_step(h)
    up = feature_set.edit(feature, 1.5)(h, step) - h
    down = feature_set.edit(feature, 1.5, "suppress")(h, step)
    torch.testing.assert_close(down, h - up)
    assert torch.equal(feature_set.edit(feature, -1.5, "amplify")(h, step), down)


def test_multiply_scales_its_own_latents(feature_set, make_step, h):
    feature, sae = feature_set.features[0], feature_set.trained.sae
    rows = torch.tensor(feature.latents)
    tokens = h.flatten(2).transpose(1, 2).flatten(0, 1)
    z = sae.encode_rows(tokens, rows) @ sae.W_dec[rows]
    assert z.any()
    edited = feature_set.edit(feature, 0.5, "multiply")(h, make_step(h)).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(edited, tokens + 0.5 * z)


@pytest.mark.parametrize("mode", MODES)
def test_strength_0_is_an_exact_no_op(feature_set, make_step, h, mode):
    assert torch.equal(feature_set.edit(feature_set.features[0], 0.0, mode)(h, make_step(h)), h)


def test_an_unknown_mode_is_refused(feature_set):
    with pytest.raises(HapaxError, match="amplify, suppress, multiply"):
        feature_set.edit(feature_set.features[0], 1.0, "boost")


def test_its_direction_does_what_amplify_does_also_from_a_file(feature_set, make_step, h, tmp_path):
    feature = feature_set.features[0]
    direction = feature_set.direction(feature)
    direction.save(tmp_path / "a.safetensors")
    loaded = Direction.load(tmp_path / "a.safetensors")
    for progress in (0.1, 0.45, 0.9):
        step = make_step(h, progress=progress)
        wanted = feature_set.edit(feature, 3.0)(h, step)
        assert not torch.equal(wanted, h)
        assert all(torch.equal(each.tap(3.0)(h, step), wanted) for each in (direction, loaded))
        assert torch.equal(direction.tap(0.0)(h, step), h)
    assert (loaded.site, loaded.meta["label"], loaded.meta["model"]) == ("mid", "line sketch", "abc")
    assert torch.equal(loaded.thumbnail, feature.pictures[0])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("rows", torch.ones(2, 5)),
        ("rows", torch.tensor(1.0)),
        ("change", torch.ones(2, 2, 2)),
        ("change", torch.full((2, 2, 2, 2), float("nan"))),
        ("progress", torch.tensor([0.6, 0.3])),
        ("progress", torch.tensor([0.3])),
    ],
)
def test_a_damaged_pattern_is_refused(feature_set, tmp_path, name, tensor):
    path = tmp_path / "a.safetensors"
    feature_set.direction(feature_set.features[0]).save(path)
    tensors, header = read_tensors(path, "direction")
    write_tensors(path, {**tensors, name: tensor}, header)
    with pytest.raises(HapaxError, match=str(path)):
        Direction.load(path)


def test_the_table_has_a_line_each(feature_set):
    lines = feature_set.text().splitlines()
    assert lines[0] == "2 rare features in 100 pictures, 3 latents scored"
    assert lines[3].split("  ")[:2] == ["1", "line sketch"]
    assert "6.0 % (" in lines[3]


def test_describe_has_its_numbers(feature_set):
    said = feature_set.features[0].describe()
    assert "shows in 6 of 100 pictures: 6.0 % (" in said
    assert "also near: a drawing" in said


def test_positions_that_form_no_grid_are_refused():
    with pytest.raises(HapaxError, match="form no grid"):
        recorded_grid(torch.tensor([0, 1, 4]), 4)

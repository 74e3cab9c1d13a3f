"""Dials from captions, and sums of directions, on the tiny models, through ComfyUI's samplers."""

from __future__ import annotations

import pytest
import torch
from captions import SAMPLING, text
from hapax.core.direction import Direction
from hapax.core.errors import HapaxError
from hapax.core.taps import Recorder
from hapax.nodes import folders
from hapax.nodes.caption_directions import CaptionToDirection
from hapax.nodes.combining import CombineDirections
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.directions import ApplyDirection

import nodes as comfy_nodes

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


def test_a_dial_is_the_difference_at_each_step_and_place(sd15, clip):
    given = {"model": sd15.model, "clip": clip, "caption": "a dog", "versus": "a cat"}
    direction, info = CaptionToDirection.execute(**given, **SAMPLING).result
    assert info.startswith("a dog - a cat\n")
    means = {}
    for prompt in ("a dog", "a cat"):
        recorder = Recorder(direction.pattern.progress)
        tapped = add_tap(sd15.model, "mid", recorder)
        runs = []
        for seed in range(10, 14):
            latent = {"samples": torch.zeros(1, 4, 8, 8)}
            words = text(clip, prompt), text(clip, "")
            comfy_nodes.common_ksampler(tapped, seed, 3, 1.0, "euler", "normal", *words, latent)
            runs.append(recorder.take(0)[0])
        means[prompt] = torch.stack(runs).mean(0)
    expected = means["a dog"] - means["a cat"]
    change = direction.pattern.shown.flatten(1, 2) @ direction.rows
    assert float((change - expected).norm() / expected.norm()) < 1e-3
    saved = folders.new_model_file("dial", "directions")
    direction.save(saved)
    for each in (direction, Direction.load(saved)):
        model = ApplyDirection.execute(sd15.model, each, 1.0, 0.0, 1.0, "both", 0.0).result[0]
        before, after = Recorder([0.3]), Recorder([0.3])
        sd15.sample(add_tap(sd15.model, "mid", before), steps=1)
        sd15.sample(add_tap(model, "mid", after), steps=1)
        first, second = before.take(0)[0], after.take(0)[0]
        assert torch.allclose(second - first, expected[0], rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def test_directions_are_combined(index):
    dog, cat = index.direction("a dog"), index.direction("a cat")
    both, info = CombineDirections.execute(dog, cat, "", first_weight=1.0, second_weight=-0.5).result
    expected = dog.vector * dog.scale - 0.5 * cat.vector * cat.scale
    torch.testing.assert_close(both.vector * both.scale, expected, rtol=1e-4, atol=1e-4 * both.scale)
    assert info.splitlines()[0] == "a dog - a cat"
    third = CombineDirections.execute(
        dog, cat, "mine", first_weight=0.0, second_weight=0.0, fourth=cat, fourth_weight=2.0
    ).result[0]
    torch.testing.assert_close(third.vector, cat.vector)
    assert third.scale == pytest.approx(2 * cat.scale)
    assert third.meta["label"] == "mine"
    assert index.name(third).nearest[0][0] == "a cat"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"versus": "a cat"}, "are both 'a cat'; give two that differ"),
        ({"caption": " "}, "No caption is given"),
        ({"seeds": 1}, "There are 1 seeds"),
    ],
)
def test_bad_input_is_one_clear_sentence(sd15, clip, changed, said):
    given = {"model": sd15.model, "clip": clip, "caption": "a cat", "versus": "a dog"}
    with pytest.raises(HapaxError, match=said) as caught:
        CaptionToDirection.execute(**given | SAMPLING | changed)
    assert "\n" not in str(caught.value)


def test_combining_what_does_not_belong_together_is_refused(index, findings):
    with pytest.raises(HapaxError, match=r"for site double\.1, but here it is mid"):
        CombineDirections.execute(index.direction("a dog"), Direction(torch.ones(128), "double.1"), "")
    features = findings[0]
    with pytest.raises(HapaxError, match="apply such directions one after the other"):
        CombineDirections.execute(index.direction("a dog"), features.direction(features.features[0]), "")

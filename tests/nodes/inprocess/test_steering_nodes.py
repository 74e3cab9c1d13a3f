"""Amplify, directions and prompt mixing on the tiny models."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from hapax.core.amplify import WINDOWS
from hapax.core.direction import Direction
from hapax.core.errors import HapaxError
from hapax.core.feature_set import MODES
from hapax.core.pattern import AddPattern
from hapax.core.steering import Scope
from hapax.core.taps import Recorder
from hapax.nodes import folders
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.directions import ApplyDirection, FeatureToDirection, LoadDirection, SaveDirection
from hapax.nodes.fitting import identity
from hapax.nodes.mixing import MixPrompts
from hapax.nodes.steering import AmplifyFeature, AmplifyFeaturesAdvanced, progress_at, weighted_lines

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


@pytest.fixture
def features(findings):
    return findings[0]


def advanced(model, features, strength=3.0, **changed):
    settings = dict(
        feature="1", mode="amplify", start_percent=0.0, end_percent=1.0, conditioning="both", norm_limit=0.0
    )
    return AmplifyFeaturesAdvanced.execute(model, features, strength=strength, **{**settings, **changed}).result[0]


def apply(model, direction, strength=5.0, **changed):
    settings = dict(start_percent=0.0, end_percent=1.0, conditioning="both", norm_limit=0.0)
    return ApplyDirection.execute(model, direction, strength, **{**settings, **changed}).result[0]


def direction_for(subject, **meta):
    generator = torch.Generator().manual_seed(5)
    vector = torch.randn(subject.site_channels, generator=generator)
    return Direction(vector, subject.site, 20.0, {**identity(subject.model), **meta})


def test_strength_0_is_bit_equal_and_leaves_no_patch(sd15, features):
    model = AmplifyFeature.execute(sd15.model, features, "1", 0.0).result[0]
    assert model is not sd15.model
    assert model.model_options == sd15.model.model_options
    assert torch.equal(sd15.sample(model), sd15.sample())


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_at_strength_0_is_bit_equal(sd15, features, mode):
    assert torch.equal(sd15.sample(advanced(sd15.model, features, 0.0, mode=mode)), sd15.sample())


def test_the_edit_is_that_of_the_library(sd15, features):
    """The same object as `hapax audit` uses, in its window, sees the same activations."""
    feature = features.features[0]
    ours, theirs = Recorder([0.0, 1.0]), Recorder([0.0, 1.0])
    before = Recorder([0.0, 1.0])
    model = AmplifyFeature.execute(add_tap(sd15.model, "mid", before), features, "1", 3.0).result[0]
    edit = AddPattern(features.trained.sae, feature.pattern, strength=3.0, scope=Scope(*WINDOWS[0]))
    other = add_tap(sd15.model, "mid", edit)
    sd15.sample(add_tap(model, "mid", ours), cfg=1.0)
    sd15.sample(add_tap(other, "mid", theirs), cfg=1.0)
    seen, made = before.take(0)[0], ours.take(0)[0]
    assert torch.equal(made, theirs.take(0)[0])
    assert not torch.equal(made[0], seen[0])
    # The last call lies behind the window.
    assert torch.equal(made[1], seen[1])


def test_a_feature_and_its_direction_do_the_same(sd15, features):
    direction = FeatureToDirection.execute(features, "1").result[0]
    pushed = sd15.sample(advanced(sd15.model, features, 3.0))
    assert not torch.equal(pushed, sd15.sample())
    assert torch.equal(sd15.sample(apply(sd15.model, direction, 3.0)), pushed)


def test_two_clones_do_not_touch_each_other(sd15, features):
    base = sd15.sample()
    one, other = advanced(sd15.model, features, 3.0), advanced(sd15.model, features, -3.0)
    first = sd15.sample(one)
    sd15.sample(other)
    assert torch.equal(sd15.sample(one), first)
    assert torch.equal(sd15.sample(), base)
    assert not torch.equal(sd15.sample(other), first)


def test_pushes_add_up(sd15):
    direction = direction_for(sd15)
    twice = apply(apply(sd15.model, direction, 2.0), direction, 3.0)
    torch.testing.assert_close(sd15.sample(twice), sd15.sample(apply(sd15.model, direction, 5.0)), rtol=1e-4, atol=1e-3)


def test_window_conditioning_and_mask_narrow_the_push(any_subject):
    base, direction = any_subject.sample(cfg=2.0), direction_for(any_subject)

    def change(**narrowed):
        model = apply(any_subject.model, direction, 5.0, **narrowed)
        return float((any_subject.sample(model, cfg=2.0) - base).norm())

    whole = change()
    assert whole > 0
    assert change(mask=torch.zeros(1, 8, 8)) == 0
    for narrowed in ({"start_percent": 0.6}, {"conditioning": "positive"}, {"conditioning": "negative"}):
        assert 0 < change(**narrowed) != whole
    assert change(mask=torch.ones(1, 64, 64)) == pytest.approx(whole, rel=1e-3)


def test_a_norm_limit_holds(sd15):
    before, after = Recorder([0.5]), Recorder([0.5])
    model = apply(add_tap(sd15.model, "mid", before), direction_for(sd15), 50.0, norm_limit=1.1)
    sd15.sample(add_tap(model, "mid", after), cfg=1.0)
    ratio = after.take(0)[0].norm(dim=-1) / before.take(0)[0].norm(dim=-1)
    assert float(ratio.max()) <= 1.1 + 1e-5
    assert float(ratio.max()) > 1.01


def test_a_profile_weighs_the_push_on_its_way(any_subject):
    direction, base = direction_for(any_subject), any_subject.sample()

    def pushed(strength, profile, of=direction):
        return any_subject.sample(apply(any_subject.model, of, strength, profile=profile))

    assert torch.equal(pushed(5.0, ""), any_subject.sample(apply(any_subject.model, direction, 5.0)))
    assert torch.equal(pushed(5.0, "0: 0"), base)
    torch.testing.assert_close(pushed(8.0, "0: 0.5, 1: 0.5"), pushed(4.0, ""), rtol=1e-4, atol=1e-3)
    early, late = pushed(5.0, "0: 1, 0.5: 0"), pushed(5.0, "0.5: 0\n1: 1")
    assert not torch.equal(early, base)
    assert not torch.equal(early, late)
    # In place of the direction's own.
    own = replace(direction, profile=[(0.0, 0.0)])
    assert torch.equal(pushed(5.0, "", own), base)
    torch.testing.assert_close(pushed(5.0, "0: 1", own), pushed(5.0, ""), rtol=1e-4, atol=1e-3)


def test_several_features_with_weights(sd15, features):
    name = features.features[0].name
    one = sd15.sample(advanced(sd15.model, features, 2.0, feature=f"{name}: 1.5"))
    assert torch.equal(one, sd15.sample(advanced(sd15.model, features, 3.0)))
    both = sd15.sample(advanced(sd15.model, features, 1.0, feature=f"{name}\n1: 0.5"))
    assert torch.equal(both, sd15.sample(advanced(advanced(sd15.model, features, 1.0), features, 0.5)))
    assert weighted_lines("line sketch: 0.5\n\n 2 \na: b") == [("line sketch", 0.5), ("2", 1.0), ("a: b", 1.0)]
    with pytest.raises(HapaxError, match="No feature is named"):
        advanced(sd15.model, features, feature=" \n ")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_changes_the_picture(sd15, features, mode):
    assert not torch.equal(sd15.sample(advanced(sd15.model, features, 1.0, mode=mode)), sd15.sample())


def test_it_stacks_on_bf16_and_other_samplers(sd15, features):
    model = sd15.model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    for sampler in ("heun", "dpmpp_sde"):
        base = sd15.sample(model, sampler=sampler)
        assert torch.equal(base, sd15.sample(advanced(model, features, 0.0), sampler=sampler))
        pushed = sd15.sample(advanced(model, features, 3.0), sampler=sampler)
        assert torch.isfinite(pushed).all()
        assert not torch.equal(pushed, base)


def test_runs_leave_nothing_behind(sd15, features):
    def run():
        sd15.sample(AmplifyFeature.execute(sd15.model, features, "1", 8.0).result[0], steps=1)

    run()
    gc.collect()
    before = sum(isinstance(each, torch.Tensor) for each in gc.get_objects())
    for _ in range(50):
        run()
    gc.collect()
    assert sum(isinstance(each, torch.Tensor) for each in gc.get_objects()) <= before
    assert "patches" not in sd15.model.model_options["transformer_options"]


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("sdxl", "were found for architecture TinySD15, but here it is TinySDXL; use the model"),
        ("flux", "but here it is Flux"),
    ],
)
def test_features_of_another_family_are_refused(subject, features, family, said):
    with pytest.raises(HapaxError, match=said):
        AmplifyFeature.execute(subject(family).model, features, "1", 8.0)


def test_features_of_another_checkpoint_are_refused(tiny_models, features):
    with pytest.raises(HapaxError, match="were found for model"):
        AmplifyFeature.execute(tiny_models.build_model("sd15", seed=1), features, "1", 8.0)


def test_save_and_load_direction(sd15, features, tiny_models):
    direction = FeatureToDirection.execute(features, "1").result[0]
    saved = SaveDirection.execute(direction, "mine", False).result[0]
    assert saved in folders.model_files("directions")
    loaded, thumbnail, info = LoadDirection.execute(saved, False).result
    assert torch.equal(loaded.vector, direction.vector)
    assert (loaded.scale, loaded.site, loaded.meta) == (direction.scale, direction.site, direction.meta)
    assert thumbnail.shape == (1, 64, 64, 3)
    assert torch.allclose(thumbnail[0, 0, 0], torch.tensor([30, 40, 200]) / 255)
    assert "at mid, 128 channels" in info
    assert torch.equal(sd15.sample(apply(sd15.model, loaded)), sd15.sample(apply(sd15.model, direction)))
    other = tiny_models.build_model("sd15", seed=1)
    with pytest.raises(HapaxError, match="turn on any_checkpoint in Load Direction"):
        apply(other, loaded)
    assert apply(other, LoadDirection.execute(saved, True).result[0]) is not other


def test_a_direction_made_elsewhere_is_known_by_site_and_channels(sd15, sdxl):
    made = Direction(torch.randn(128), "mid", 1.0, {"model": "of diffusers", "architecture": "UNet2DConditionModel"})
    assert apply(sd15.model, made) is not sd15.model
    narrow = Direction(torch.randn(64), "mid")
    with pytest.raises(HapaxError, match="made for channels 64, but here it is 128"):
        apply(sd15.model, narrow)
    with pytest.raises(HapaxError, match=r"for site double.3: There is no site 'double.3'"):
        apply(sdxl.model, Direction(torch.randn(64), "double.3"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start_percent": 0.8, "end_percent": 0.2}, "a start that is not after the end"),
        ({"mask": torch.ones(2, 8, 8)}, "There are 2 masks; give one"),
        ({"norm_limit": 0.5}, "norm_limit is 0.5"),
        ({"profile": "0.5"}, "The profile has '0.5'; give shares of the denoising from 0 to 1, each with a factor"),
        ({"profile": "0: 1, 2: 1"}, "The profile has '2: 1'"),
        ({"profile": "0: nan"}, "The profile has '0: nan'"),
        ({"profile": "0.5: 1, 0.2: 0"}, "in ascending order"),
    ],
)
def test_bad_scopes_are_refused(sd15, changed, said):
    with pytest.raises(HapaxError, match=said):
        apply(sd15.model, direction_for(sd15), **changed)


def test_percents_are_comfyuis(subject):
    for family, half in (("sd15", 0.5), ("sd3", 0.25)):
        model = subject(family).model
        assert [progress_at(model, p) for p in (0.0, 1.0)] == [0.0, 1.0]
        assert progress_at(model, 0.5) == pytest.approx(half, abs=1e-3)
    assert Scope(0.0, progress_at(subject("sd15").model, 0.5)).end == 0.5


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_each_row_of_a_batch_gets_its_prompt(subject, tiny_models, family):
    one = subject(family)
    guidance = 3.5 if family == "flux" else None
    naming = tiny_models.conditioning(7, guidance)
    mixed, said = MixPrompts.execute(one.positive, naming, 0.5, 0, 2).result
    assert said == "1 usual, 2 naming"
    both = one.sample(rows=2, positive=mixed)
    torch.testing.assert_close(both[0], one.sample(rows=2)[0], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(both[1], one.sample(rows=2, positive=naming)[1], rtol=1e-3, atol=1e-2)
    assert not torch.allclose(both[1], one.sample(rows=2)[1], rtol=1e-3, atol=1e-2)


def test_a_single_picture_gets_one_prompt_as_it_is(sd15, tiny_models):
    naming = tiny_models.conditioning(7)
    chosen = [MixPrompts.execute(sd15.positive, naming, 0.25, seed, 1).result[0] for seed in range(8)]
    assert [each is naming for each in chosen] == [False, False, False, True] * 2
    assert all(each is sd15.positive or each is naming for each in chosen)


def test_long_prompts_are_evened(sd15, tiny_models):
    naming = tiny_models.conditioning(7)
    naming = [[naming[0][0].repeat(1, 2, 1), naming[0][1]]]
    mixed = MixPrompts.execute(sd15.positive, naming, 0.5, 0, 2).result[0]
    assert mixed[0][0].shape == (2, 154, 64)
    assert torch.isfinite(sd15.sample(rows=2, positive=mixed)).all()


def test_combinations_cannot_share_a_batch(sd15, tiny_models):
    pair = sd15.positive + tiny_models.conditioning(8)
    with pytest.raises(HapaxError, match="a combination of 2; mix single prompts, or use batch_size 1"):
        MixPrompts.execute(sd15.positive, pair, 0.5, 0, 2)
    assert MixPrompts.execute(sd15.positive, pair, 1.0, 0, 2).result[0] is pair
    masked = [[sd15.positive[0][0], {**sd15.positive[0][1], "strength": 0.5}]]
    with pytest.raises(HapaxError, match="differ in areas, masks"):
        MixPrompts.execute(sd15.positive, masked, 0.5, 0, 2)

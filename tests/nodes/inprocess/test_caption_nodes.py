"""Caption indices, look-ups and descriptions on the tiny models, through ComfyUI's samplers."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch
from captions import CAPTIONS, SAMPLING, Words, text
from hapax.core.direction import Direction
from hapax.core.errors import HapaxError
from hapax.nodes import folders, sampling, schema
from hapax.nodes.backend import ComfyBackend
from hapax.nodes.caption_directions import NAMELESS, DescribeDirection, LookUpCaption
from hapax.nodes.captions import BELOW, GENERAL, BuildCaptionIndex, LoadCaptionIndex, SaveCaptionIndex
from hapax.nodes.comfy_taps import add_tap
from hapax.nodes.directions import ApplyDirection

import nodes as comfy_nodes

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


def heard(subject, clip, prompt, seed, cfg=1.0):
    """Mean activation [C] over KSampler's calls under the prompt, and over places."""
    seen = []
    model = add_tap(subject.model, "mid", lambda h, step: seen.append(h[step.cond].clone()))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    prompts = text(clip, prompt), text(clip, "")
    comfy_nodes.common_ksampler(model, seed, 3, cfg, "euler", "normal", *prompts, latent)
    return torch.cat([h for h in seen if len(h)]).mean((0, 2, 3))


def test_a_direction_is_what_ksampler_does_otherwise_under_the_caption(build, sd15, clip):
    for cfg in (1.0, 3.0):
        index, told = build(cfg=cfg)
        assert told.startswith("4 captions at mid of TinySD15: 4 seeds, 3 steps, 128 channels; ")
        means = [
            torch.stack([heard(sd15, clip, each, seed, cfg) for seed in range(10, 14)]).mean(0)
            for each in ("a dog", "a cat")
        ]
        direction, expected = index.direction("a dog", "a cat"), means[0] - means[1]
        assert torch.cosine_similarity(direction.vector, expected, dim=0) > 0.999
        assert direction.scale == pytest.approx(float(expected.norm()), rel=0.02)


def test_batches_change_nothing(build, run):
    one, other = build()[0], build(batch_size=1, run=run + "-alone")[0]
    torch.testing.assert_close(one.offsets().float(), other.offsets().float(), rtol=0.02, atol=0.02)


def test_banks_are_joined_and_prompts_go_before_each(build, base_directory):
    base = base_directory / "input" / "mine.txt"
    base.parent.mkdir(exist_ok=True)
    base.write_text("a horse\na cat\n")
    assert "mine.txt" in folders.input_files((".txt",))
    index = build(bank="mine.txt", captions="a cat\nsketch", seeds=2, steps=1)[0]
    assert list(index.captions) == ["a horse", "a cat", "sketch", ""]
    index = build(captions="sketch\nnight", prompts="a cook\na cat", seeds=2, steps=1)[0]
    told = ["a cook", "a cook, sketch", "a cook, night", "a cat", "a cat, sketch", "a cat, night", ""]
    assert list(index.captions) == told
    assert index.name(index.direction("a cook, night", "a cook")).nearest[0][0] == "night"


def test_an_interrupted_build_resumes(build, run, monkeypatch, base_directory):
    monkeypatch.setattr("hapax.core.directions.parts._SAMPLES", 4)
    whole = build(run=run + "-whole")[0]
    calls, plain = [], sampling._preview

    def preview(model, report):
        callback = plain(model, report)

        def counted(*args):
            calls.append(args[0])
            if len(calls) == stop_at:
                comfy.model_management.interrupt_current_processing(True)
            callback(*args)

        return counted

    monkeypatch.setattr(sampling, "_preview", preview)
    # One probe and two captions of three steps each, and into the third.
    stop_at = 3 * 3 + 2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        build()
    folders_made = (base_directory / "output" / "hapax").iterdir()
    (folder,) = (path for path in folders_made if path.name.rpartition("-")[0] == run)
    assert len(list(folder.glob("part-*"))) == 2
    stop_at, calls = 0, []
    again = build()[0]
    assert torch.equal(again.offsets(), whole.offsets())
    assert not comfy.model_management.processing_interrupted()


def test_progress_is_reported(build, monkeypatch):
    seen = []
    monkeypatch.setattr(
        schema.comfy.utils.ProgressBar,
        "update_absolute",
        lambda self, value, total, preview=None: seen.append(value / total),
    )
    build(seeds=2)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 5


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_every_family_is_indexed(subject, tiny_models, run, family):
    tiny = subject(family)
    given = {
        "model": tiny.model,
        "clip": Words(tiny_models, family),
        "bank": BELOW,
        "captions": CAPTIONS,
        "prompts": "",
        "run": run,
    }
    index = BuildCaptionIndex.execute(**given, neutral="", whiten=0.0, **{**SAMPLING, "seeds": 2, "steps": 2}).result[0]
    assert index.site == {"sdxl": "mid", "sd3": "double.1", "flux": "double.1"}[family]
    assert index.lookup(index.direction("a dog"), 1)[0][0] == "a dog"
    direction = index.direction("a dog", "a cat")
    model = ApplyDirection.execute(tiny.model, direction, 50.0, 0.0, 1.0, "both", 0.0).result[0]
    assert not torch.equal(tiny.sample(model), tiny.sample())


def test_save_and_load(index, tiny_models, clip):
    saved = SaveCaptionIndex.execute(index, "mine", True).result[0]
    assert saved == "captions/mine.safetensors"
    assert saved in folders.model_files("captions")
    loaded, told = LoadCaptionIndex.execute(saved, False).result
    assert told.startswith("4 captions at mid of TinySD15")
    assert torch.equal(loaded.offsets(), index.offsets())
    direction = loaded.direction("a dog")
    other = tiny_models.build_model("sd15", seed=1)
    with pytest.raises(HapaxError, match="was made for model"):
        ApplyDirection.execute(other, direction, 5.0, 0.0, 1.0, "both", 0.0)
    free = LoadCaptionIndex.execute(saved, True).result[0].direction("a dog")
    assert ApplyDirection.execute(other, free, 5.0, 0.0, 1.0, "both", 0.0).result[0] is not other
    assert LoadCaptionIndex.fingerprint_inputs(saved) != LoadCaptionIndex.fingerprint_inputs(
        "captions/gone.safetensors"
    )


def test_look_up_gives_a_direction_and_lists_the_nearest(index, sd15):
    direction, table = LookUpCaption.execute(index, " a cat, sketch ", "a cat", 3).result
    assert direction.meta["label"] == "a cat, sketch - a cat"
    lines = table.splitlines()
    assert lines[0] == "+1.000  sketch"
    assert len(lines) == 3 + 1 + 2
    assert lines[-2].startswith("a cat, sketch: halves of the seeds agree by ")
    model = ApplyDirection.execute(sd15.model, direction, 0.0, 0.0, 1.0, "both", 0.0).result[0]
    assert torch.equal(sd15.sample(model), sd15.sample())
    # Against the neutral prompt, which has no line of its own.
    assert len(LookUpCaption.execute(index, "a cat", "", 3).result[1].splitlines()) == 3 + 1 + 1


def test_a_direction_may_have_the_profile_that_was_recorded(index):
    plain, profiled = (LookUpCaption.execute(index, "a dog", "", 3, each).result[0] for each in (False, True))
    assert plain.profile is None
    assert torch.equal(profiled.vector, plain.vector)
    assert [place for place, _ in profiled.profile] == pytest.approx(list(index.meta["recipe"]["progress"]))


def test_describe_names_a_direction_or_says_that_nothing_fits(index):
    name, table = DescribeDirection.execute(index, index.direction("a dog")).result
    assert table.splitlines()[0] == "+1.000  a dog"
    assert name in ("a dog", NAMELESS)
    name, table = DescribeDirection.execute(index, Direction(torch.ones(128), "mid")).result
    assert name == NAMELESS
    assert table.endswith(NAMELESS)


def test_pictures_are_described_by_what_sets_them_apart(index, sd15, clip, vae):
    red, blue = (torch.tensor(colour).expand(1, 64, 64, 3) for colour in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    wired = {"model": sd15.model, "clip": clip, "vae": vae, "seeds": 2, "listed": 9}
    tables = [
        DescribeDirection.execute(index, image=one, against=other, **wired).result[1]
        for one, other in ((red, blue), (blue, red))
    ]
    forth, back = ({line[8:]: float(line[:6]) for line in table.splitlines()[:-1]} for table in tables)
    assert back == {name: pytest.approx(-cosine, abs=2e-3) for name, cosine in forth.items()}
    assert DescribeDirection.execute(index, image=red, **wired).result[1] not in tables


def test_with_a_vae_the_index_is_of_finished_pictures(build, index, clip, sd15, vae):
    looks, _ = build(vae=vae)
    assert looks.meta["recipe"]["reads"] == ""
    assert index.meta["recipe"]["reads"] is None
    backend = ComfyBackend(sd15.model, clip, "euler", "normal", vae)
    sampling_options = {"steps": 3, "guidance": 1.0, "batch_size": 4, "width": 64, "height": 64, "output": "pil"}
    dogs, cats = (backend.sample(each, range(10, 14), {}, **sampling_options) for each in ("a dog", "a cat"))
    assert looks.describe(dogs, cats, 1, backend=backend, seeds=range(10, 14)).nearest[0][0] == "a dog"


def test_what_a_picture_is_read_as_is_one_call_on_its_noised_latent(sd15, clip, vae):
    backend = ComfyBackend(sd15.model, clip, "euler", "normal", vae)
    picture = schema.to_pictures(torch.full((1, 64, 64, 3), 0.5))
    found = backend.picture_activations(picture * 2, seeds=[7, 8], progress=[0.25, 0.75], site="mid", prompt="a cat")
    assert found.shape == (2, 2, 2, 128)
    # The same picture under the same noise is the same.
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0, 0], found[0, 1])


def test_the_general_bank_is_offered_first():
    (bank,) = (each for each in BuildCaptionIndex.define_schema().inputs if each.id == "bank")
    assert bank.options[:2] == [GENERAL, BELOW]


BAD = [
    ("build", {"captions": " \n"}, "has 0 captions"),
    ("build", {"captions": "only one"}, "has 1 captions"),
    ("build", {"site": "double.3"}, "There is no site 'double.3'"),
    ("build", {"bank": "../elsewhere.txt"}, "is not a file or folder name inside input"),
    ("build", {"bank": "gone.txt"}, "There is no file 'gone.txt' in ComfyUI's input folder"),
    ("build", {"width": 0}, "0 x 64 pixels is less than a cell of 8 x 8"),
    ("build", {"run": "../elsewhere"}, "is not a file or folder name inside hapax"),
    ("look up", {"caption": "a horse"}, "'a horse' is not in the index of"),
    ("look up", {"caption": " "}, "No caption is given; give one of the 4 in the index, such as 'a cat', 'a dog'"),
    ("look up", {"versus": "a horse"}, "'a horse' is not in the index of"),
    ("look up", {"versus": "a dog"}, "have the same activations"),
    ("look up", {"versus": "a cat", "profiled": True}, "relative to its mean only; leave out what"),
    ("describe", {}, "Wire either a direction or an image"),
    ("describe", {"direction": Direction(torch.ones(64), "mid")}, "channels 128, but here it is 64"),
    ("describe", {"direction": Direction(torch.ones(128), "double.1")}, "site mid, but here it is double.1"),
    ("describe", {"image": torch.zeros(1, 64, 64, 3)}, "wire model, clip, vae"),
]


@pytest.mark.parametrize(("what", "changed", "said"), BAD, ids=[f"{what}: {said[:30]}" for what, _, said in BAD])
def test_bad_input_is_one_clear_sentence(build, index, what, changed, said):
    acts = {
        "build": lambda: build(**changed),
        "look up": lambda: LookUpCaption.execute(
            **{"index": index, "caption": "a dog", "versus": "", "listed": 3} | changed
        ),
        "describe": lambda: DescribeDirection.execute(index, **changed),
    }
    with pytest.raises(HapaxError, match=said) as caught:
        acts[what]()
    assert "\n" not in str(caught.value)


def test_an_index_of_another_model_is_refused(index, subject, tiny_models, clip, vae):
    wired = {"image": torch.zeros(1, 64, 64, 3), "clip": clip, "vae": vae}
    with pytest.raises(HapaxError, match="architecture TinySD15, but here it is TinySDXL"):
        DescribeDirection.execute(index, model=subject("sdxl").model, **wired)
    with pytest.raises(HapaxError, match="The index was built for model"):
        DescribeDirection.execute(index, model=tiny_models.build_model("sd15", seed=1), **wired)


def test_activations_that_are_not_finite_are_refused(build, sd15):
    broken = add_tap(sd15.model, "mid", lambda h, step: torch.full_like(h, torch.nan))
    with pytest.raises(HapaxError, match="are not finite"):
        build(model=broken)

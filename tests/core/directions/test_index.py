"""The index: real recordings of a tiny pipeline, looked up, named, saved, refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.direction import Direction
from hapax.core.directions import CaptionIndex, CaptionLabeller, Recipe, picture_activations
from hapax.core.directions.assemble import assemble
from hapax.core.directions.parts import Parts
from hapax.core.directions.texts import Texts
from hapax.core.errors import HapaxError
from hapax.core.labels import FeatureCentroid
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

BANK = ("a cat", "a dog", "a cat, sketch", "something else altogether")
OPTIONS = {"seeds": [0, 1, 2, 3], "steps": 2, "guidance": 1.0}


@pytest.fixture(scope="module")
def backend(tiny_pipelines) -> DiffusersBackend:
    return DiffusersBackend(tiny_pipelines.build("sd1"))


@pytest.fixture(scope="module")
def index(backend) -> CaptionIndex:
    return CaptionIndex.build(backend, BANK, **OPTIONS)


@pytest.fixture(params=[0.0, 0.5], ids=["plain", "white"])
def planted(request, tmp_path) -> tuple[CaptionIndex, Tensor]:
    """An index of 60 captions in 32 dimensions with known directions, of which the last 10 are noise."""
    g = torch.Generator().manual_seed(0)
    truth = 3 * torch.randn(60, 32, generator=g)
    # Noise captions lie at the bank's mean, so they differ from it in nothing.
    truth[:50] -= truth[:50].mean(0)
    truth[50:] = 0
    captions = tuple(f"a cook, attribute {i}" if i % 2 else f"thing {i}" for i in range(60))
    captions = tuple("a cook" if row == 49 else caption for row, caption in enumerate(captions))
    parts = Parts(tmp_path / "planted", captions, list(range(6)), Recipe(progress=(0.0, 0.5)), "m")
    parts.folder.mkdir()
    for span in parts._spans():
        rows = truth[span.start : span.stop, None, None]
        parts._write(span, rows + torch.randn(len(span), 6, 2, 32, generator=g) + 5)
    tensors, reach = assemble(parts, len(captions), request.param)
    meta = {"model": "m", "architecture": "U", "site": "mid", "channels": 32, "reach": reach, "neutral": None}
    meta |= {"recipe": vars(parts.recipe), "seeds": parts.seeds}
    return CaptionIndex(Texts.of(captions), tensors, meta), truth


def test_planted_directions_are_found_and_named(planted) -> None:
    index, truth = planted
    for row in (row for row in range(50) if index.captions[row] != "a cook"):
        caption = index.captions[row]
        assert index.lookup(truth[row], 1)[0][0] == caption
        assert index.name(truth[row]).names[0][0] in (caption, caption.removeprefix("a cook, "))
        assert F.cosine_similarity(index.direction(caption).vector, truth[row], dim=0) > 0.97


def test_what_a_caption_adds_is_a_name_of_its_own(planted) -> None:
    index, truth = planted
    added = truth[7] - truth[49]
    naming = index.name(added)
    assert naming.names[0][0] == "attribute 7"
    assert len({name for name, _ in naming.nearest}) == len(naming.nearest) == 3
    cosine = F.cosine_similarity(added, truth[7], dim=0)
    assert naming.names[0][1] > 0.97 > cosine + 0.1
    assert index.lookup(added, 1) == [("a cook, attribute 7", pytest.approx(float(cosine), abs=0.2))]


def test_whitened_cosines_are_those_of_whitened_vectors(planted) -> None:
    """By a root of the inverse of the shrunk covariance; where there is none, plain cosines."""
    index, truth = planted
    offsets, query = index.offsets().double(), truth[3].double() + torch.ones(32, dtype=torch.float64)
    if "metric" in index._tensors:
        covariance = offsets.T @ offsets / len(offsets)
        shrunk = 0.5 * covariance + 0.5 * covariance.trace() / 32 * torch.eye(32, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(shrunk)
        white = vectors / values.sqrt()
        offsets, query = offsets @ white, query @ white
    cosines = F.cosine_similarity(offsets, query, dim=1)
    for caption, cosine in index.lookup(query if "metric" not in index._tensors else truth[3] + torch.ones(32), 60):
        assert cosine == pytest.approx(float(cosines[index.captions.index(caption)]), abs=2e-3)


def test_captions_that_are_noise_say_so(planted) -> None:
    index, _ = planted
    assert index.reliable[:50].all()
    assert index.reliable[50:].sum() <= 2
    assert index.evidence("thing 2")["split_half"] > 0.9 > 0.6 > index.evidence("thing 52")["split_half"]


def test_random_vectors_get_no_good_name(planted) -> None:
    index, _ = planted
    vectors = torch.randn(400, 32, generator=torch.Generator().manual_seed(5))
    named = sum(bool(index.name(vector).names) for vector in vectors)
    assert named / 400 <= 0.03


def test_through_faiss_the_answers_are_the_same(planted) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed: look-ups through FAISS are NOT tested")
    index, truth = planted
    fast = index.through_faiss()
    # Sums of other rows at once are rounded otherwise.
    near = partial(pytest.approx, abs=1e-9)
    for query in (*truth[:49], truth[7] - truth[49], torch.ones(32)):
        found, naming = index.lookup(query, 3), index.name(query)
        assert fast.lookup(query, 3) == [(name, near(cosine)) for name, cosine in found]
        assert fast.name(query).nearest == [(name, near(cosine)) for name, cosine in naming.nearest]
        assert len(fast.name(query).names) == len(naming.names)
    assert fast.evidence("thing 2") == index.evidence("thing 2")


def test_features_are_named_by_their_displacement(planted) -> None:
    index, truth = planted
    labeller, nowhere = CaptionLabeller(index, k=2), torch.zeros(3)
    assert labeller.label(FeatureCentroid(5, nowhere, nowhere, 9.0, truth[4]))[0][0] == "thing 4"
    assert labeller.label(FeatureCentroid(5, nowhere, nowhere, 9.0, torch.ones(32))) == []
    with pytest.raises(HapaxError, match="Latent 5 has no displacement"):
        labeller.label(FeatureCentroid(5, nowhere, nowhere, 9.0))


def test_a_direction_is_the_difference_of_the_means_of_recorded_activations(backend, index) -> None:
    """Recomputed from the recordings, without the index's own code."""
    recipe = Recipe(steps=2, guidance=1.0).planned(backend)
    means = {c: recipe.record(backend, [c], OPTIONS["seeds"])[0].mean((0, 1)) for c in (*BANK, "")}
    bank = torch.stack([means[c] for c in BANK]).mean(0)
    for caption, versus, base in (("a dog", None, bank), ("a dog", "a cat", means["a cat"]), ("a cat", "", means[""])):
        direction, expected = index.direction(caption, versus), means[caption] - base
        assert F.cosine_similarity(direction.vector, expected, dim=0) > 0.9999
        assert direction.scale == pytest.approx(float(expected.norm()), rel=0.01)
    assert index.lookup(index.direction("a dog"), 1) == [("a dog", pytest.approx(1.0, abs=1e-5))]


def test_a_direction_steers_and_zero_strength_does_not(backend, index) -> None:
    direction = index.direction("a dog", "a cat")
    sample = {"prompts": "a cat", "seeds": [5], "steps": 2, "guidance": 1.0, "output": "latent"}
    plain, zero, pushed = (
        backend.sample(taps=taps, **sample) for taps in ({}, {"mid": direction.tap(0.0)}, {"mid": direction.tap(50.0)})
    )
    assert torch.equal(plain, zero)
    assert not torch.allclose(plain, pushed, atol=1e-3)


def test_profile_averages_to_one(index) -> None:
    profile = index.direction("a dog", profiled=True).profile
    assert [place for place, _ in profile] == pytest.approx(list(index.meta["recipe"]["progress"]))
    assert sum(factor for _, factor in profile) / len(profile) == pytest.approx(1.0, abs=0.02)


def test_saving_keeps_every_answer_and_loading_maps_the_file(index, tmp_path: Path) -> None:
    index.save(tmp_path / "i.safetensors")
    again = CaptionIndex.load(tmp_path / "i.safetensors", {"site": "mid", "model": index.meta["model"]})
    query = torch.randn(16, generator=torch.Generator().manual_seed(3))
    assert again.lookup(query, 4) == index.lookup(query, 4)
    assert again.name(query) == index.name(query)
    assert list(again.captions) == [*BANK, ""]
    assert again.evidence("a dog") == index.evidence("a dog")


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="No /proc here: that an index is mapped is NOT tested"
)
def test_a_large_index_is_mapped_and_looked_up_in_place(tmp_path: Path) -> None:
    """Memory of this process's own, not the file's: loading and a look-up take a part of what the rows do."""
    m, channels = 20_000, 640
    rows = torch.randn(m, channels, generator=torch.Generator().manual_seed(0)).bfloat16()
    tensors = {name: torch.zeros(m) for name in ("agreement", "p", "split_half")} | {"rows": rows}
    tensors |= {"lengths": rows.float().norm(dim=1), "mean": torch.zeros(channels), "null": torch.tensor([0.2])}
    tensors |= {"profile": torch.ones(m, 1), "contrasts": torch.zeros(0, dtype=torch.long)}
    meta = {"model": "m", "site": "mid", "channels": channels, "reach": 1.0, "neutral": None}
    CaptionIndex(Texts.of([f"caption {row}" for row in range(m)]), tensors, meta).save(tmp_path / "i.safetensors")
    query, nbytes = rows[4321].clone(), rows.nbytes

    def own_memory() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

    before = own_memory()
    index = CaptionIndex.load(tmp_path / "i.safetensors")
    assert index.lookup(query, 1) == [("caption 4321", pytest.approx(1.0, abs=1e-6))]
    assert own_memory() - before < nbytes / 3


class Counting:
    """A backend that counts samples, and can be interrupted after so many."""

    def __init__(self, backend: DiffusersBackend, limit: float = float("inf")) -> None:
        self.backend, self.limit, self.samples = backend, limit, 0

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def sample(self, prompts, seeds, *args, **options):
        self.samples += len(seeds)
        if self.samples > self.limit:
            raise KeyboardInterrupt
        return self.backend.sample(prompts, seeds, *args, **options)


def test_an_interrupted_build_resumes_and_equals_an_unbroken_one(backend, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hapax.core.directions.parts._SAMPLES", 8)
    whole = CaptionIndex.build(backend, BANK, folder=tmp_path / "whole", **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        CaptionIndex.build(Counting(backend, 12), BANK, folder=tmp_path / "broken", **OPTIONS)
    counting = Counting(backend)
    again = CaptionIndex.build(counting, BANK, folder=tmp_path / "broken", **OPTIONS)
    # One probe, and the three captions (the neutral prompt is one) that were not there yet.
    assert counting.samples == 1 + 3 * 4
    assert torch.equal(again.offsets(), whole.offsets())


def test_progress_ends_at_all_and_may_interrupt(backend, tmp_path) -> None:
    calls: list[tuple[str, int, int]] = []
    CaptionIndex.build(backend, BANK, progress=lambda *call: calls.append(call), **OPTIONS)
    assert calls[-1] == ("recording", 5, 5)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)

    def stop(stage: str, done: int, of: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CaptionIndex.build(backend, BANK, progress=stop, **OPTIONS)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_every_architecture_can_be_indexed(tiny_pipelines, name: str) -> None:
    backend = DiffusersBackend(tiny_pipelines.build(name))
    site = "mid" if name == "sdxl" else "double.1"
    index = CaptionIndex.build(backend, BANK, site=site, seeds=2, steps=2, guidance=1.0)
    assert index.site == site
    assert index.lookup(index.direction("a dog"), 1)[0][0] == "a dog"


def test_pictures_are_described_by_what_sets_them_apart(backend, index) -> None:
    red, blue = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    forth, back = (index.describe([a], [b], 9, backend=backend).nearest for a, b in ((red, blue), (blue, red)))
    assert dict(back) == {name: pytest.approx(-cosine, abs=1e-6) for name, cosine in forth}
    shift = index.offsets()[1].float()
    base = torch.randn(3, 2, 16)
    assert index.describe(base + shift, base).nearest[0] == ("a dog", pytest.approx(1.0, abs=1e-4))


def test_an_index_for_pictures_knows_how_its_captions_pictures_look(backend, tmp_path) -> None:
    """Recomputed from finished pictures, each looked at under its own seed's noise, without the index's own code."""
    index = CaptionIndex.build(backend, BANK, for_pictures=True, folder=tmp_path / "whole", **OPTIONS)
    seeds, places = OPTIONS["seeds"], index.meta["recipe"]["progress"]
    looks = {}
    for caption in (*BANK, ""):
        pictures = backend.sample(caption, seeds, steps=2, guidance=1.0, batch_size=8)
        rows = [
            picture_activations(backend, [picture], seeds=[seed], progress=places)
            for picture, seed in zip(pictures, seeds, strict=True)
        ]
        looks[caption] = torch.stack(rows).mean((0, 1, 2, 3))
    mean = torch.stack([looks[caption] for caption in BANK]).mean(0)
    for caption in BANK:
        expected = looks[caption] - mean
        # Recordings are kept in half precision, and untrained models see hardly any difference.
        assert F.cosine_similarity(index.direction(caption).vector, expected, dim=0) > 0.95
    pictures = backend.sample("a dog", seeds, steps=2, guidance=1.0, batch_size=8)
    others = backend.sample("a cat", seeds, steps=2, guidance=1.0, batch_size=8)
    assert index.describe(pictures, others, 1, backend=backend, seeds=seeds).nearest[0][0] == "a dog"
    assert "metric" in index._tensors
    with pytest.raises(HapaxError, match="another recipe"):
        CaptionIndex.build(backend, BANK, folder=tmp_path / "whole", **OPTIONS)


SITE = Direction(torch.ones(16), "double.3")
MODEL = Direction(torch.ones(16), "mid", meta={"model": "another"})
BAD: list[tuple[Callable, str]] = [
    (lambda i, b: CaptionIndex.build(b, [], **OPTIONS), "has 0 captions"),
    (lambda i, b: CaptionIndex.build(b, ["x", "y", "x"], **OPTIONS), "'x' is in the bank twice"),
    (lambda i, b: CaptionIndex.build(b, ["x", " "], **OPTIONS), "Caption 1 of the bank is ' '"),
    (lambda i, b: CaptionIndex.build(b, "a cat", **OPTIONS), "one text"),
    (lambda i, b: CaptionIndex.build(b, BANK, **(OPTIONS | {"seeds": [1]})), "1 seeds"),
    (lambda i, b: CaptionIndex.build(b, BANK, **(OPTIONS | {"seeds": [1, 1]})), "2 seeds, 1 of them different"),
    (lambda i, b: CaptionIndex.build(b, BANK, site="double.3", **OPTIONS), "no site 'double.3'"),
    (lambda i, b: CaptionIndex.build(b, BANK, whiten=2.0, **OPTIONS), "whiten is 2.0"),
    (lambda i, b: CaptionIndex.build(b, BANK, at=(1.5,), **OPTIONS), "progress is"),
    (lambda i, b: i.direction("a horse"), "'a horse' is not in the index"),
    (lambda i, b: i.direction("a cat", "a cat"), "same activations"),
    (lambda i, b: i.direction("a cat", "a dog", profiled=True), "relative to its mean only; leave out"),
    (lambda i, b: i.direction("", profiled=True), "relative to its mean only"),
    (lambda i, b: i.evidence(""), "neutral prompt"),
    (lambda i, b: i.lookup(torch.full((16,), torch.nan)), "NaN"),
    (lambda i, b: i.lookup(torch.zeros(16)), "all zero"),
    (lambda i, b: i.lookup(torch.ones(8)), r"shape \(8,\).*16 channels"),
    (lambda i, b: i.lookup(torch.ones(16), 0), "k is 0"),
    (lambda i, b: i.lookup(SITE), "site mid.*double.3"),
    (lambda i, b: i.name(MODEL), "model .*another"),
    (lambda i, b: i.describe(Image.new("RGB", (8, 8))), "give its backend"),
    (lambda i, b: i.describe([], backend=b), "0 pictures"),
    (lambda i, b: CaptionIndex.load("nowhere.safetensors"), "no file nowhere"),
]


@pytest.mark.parametrize(("act", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_is_one_clear_sentence(backend, index, act: Callable, said: str) -> None:
    with pytest.raises(HapaxError, match=said) as caught:
        act(index, backend)
    assert "\n" not in str(caught.value)


def test_an_index_of_another_model_and_damaged_files_are_refused(index, tmp_path) -> None:
    path = tmp_path / "i.safetensors"
    index.save(path)
    with pytest.raises(HapaxError, match="model"):
        CaptionIndex.load(path, {"model": "another"})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HapaxError, match="damaged"):
        CaptionIndex.load(path)
    Direction(torch.ones(4), "mid").save(path)
    with pytest.raises(HapaxError, match="not a caption index"):
        CaptionIndex.load(path)


def test_across_hosts_only_site_and_channels_are_compared(index) -> None:
    made = {"architecture": "SD15", "model": "named otherwise there", "versions": {"comfyui": "0.33"}}
    index.check_fits(made | {"site": "mid", "channels": 16})
    index.check_fits(index.direction("a dog").made_for)
    with pytest.raises(HapaxError, match="site mid"):
        index.check_fits(made | {"site": "double.1"})


def test_a_folder_of_another_recording_is_refused(backend, tmp_path) -> None:
    CaptionIndex.build(backend, BANK, folder=tmp_path, **OPTIONS)
    with pytest.raises(HapaxError, match="another captions"):
        CaptionIndex.build(backend, BANK[:2], folder=tmp_path, **OPTIONS)
    part = next(tmp_path.glob("part-*"))
    assert set(load_file(part)) == {"by_seed", "by_step"}
    part.write_bytes(b"damaged")
    with pytest.raises(HapaxError, match="damaged"):
        CaptionIndex.build(backend, BANK, folder=tmp_path, **OPTIONS)


def test_recipes_find_the_samplers_own_calls(backend) -> None:
    recipe = Recipe(steps=4, guidance=1.0).planned(backend)
    assert len(recipe.progress) == 4
    late = replace(recipe, progress=(1.0, 0.99)).planned(backend)
    assert late.progress == (max(recipe.progress),)

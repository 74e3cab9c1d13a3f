"""The diversity nodes, on rendered emoji whose attributes are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comfy.clip_vision import Output as VisionOutput
from comfy_execution.graph_utils import ExecutionBlocker
from hapax.core.emoji.render import render
from hapax.core.emoji.world import load_world
from hapax.core.errors import HapaxError
from hapax.core.sce import rke_score, schur_complement_entropy, vendi_score
from hapax.nodes.accumulating import SCEAccumulate
from hapax.nodes.diversity import SCEScore, VendiScore
from hapax.nodes.embeddings import EmbedImages, EmbedTexts, embed_texts, prompts_for
from hapax.nodes.modes import DiversityModes
from hapax.nodes.nearest_pictures import NearestPictures
from hapax.nodes.prompt_map import FitPromptMap
from hapax.nodes.prompt_removal import KeepPrompt, RemovePrompt

pytestmark = pytest.mark.usefixtures("as_the_server_runs")

PROMPTS = "a photo of a firefighter\na photo of a doctor"
FIREFIGHTER, DOCTOR = PROMPTS.splitlines()


def emoji(concept, count, **attributes):
    """`count` different pictures [count, 64, 64, 3] of a concept, spread over all its kinds with these attributes."""
    kinds = [kind for kind in load_world().kinds(concept) if all(kind.has(each) for each in attributes.values())]
    chosen = [kinds[i * len(kinds) // count % len(kinds)] for i in range(count)]
    return torch.stack([torch.from_numpy(render(kind)).float() for kind in chosen])


@pytest.fixture(scope="module")
def varied():
    """20 firefighters of all kinds, and 20 doctors."""
    return torch.cat([emoji("firefighter", 20), emoji("doctor", 20)])


@pytest.fixture(scope="module")
def uniform():
    """The same numbers, but men in flat pictures only."""
    plain = {"style": "flat picture", "gender": "man"}
    return torch.cat([emoji("firefighter", 20, **plain), emoji("doctor", 20, **plain)])


@pytest.fixture(scope="module")
def embedded(varied, scorer):
    with torch.inference_mode():
        return EmbedImages.execute(varied, scorer, PROMPTS).result[0]


@pytest.fixture(scope="module")
def fitted(embedded):
    with torch.inference_mode():
        return FitPromptMap.execute(embedded, 1e-6).result[0]


def score(images, scorer, prompts=PROMPTS, **changed):
    settings = dict(
        label="varied", compare_label="uniform", ridge=1e-3, kernel="cosine", sigma=0.5, folds=0, compare_with=None
    )
    return SCEScore.execute(images, scorer, prompts, **{**settings, **changed}).result


class TestPrompts:
    """Which line is whose."""

    def test_one_for_all_one_each_and_shared_out(self):
        assert prompts_for("a\n\n", 3) == ["a", "a", "a"]
        assert prompts_for("a\n b \nc", 3) == ["a", "b", "c"]
        assert prompts_for("a\nb", 4) == ["a", "a", "b", "b"]

    @pytest.mark.parametrize(
        ("text", "said"), [("", "No prompt was given for the 3 pictures"), ("a\nb", "2 prompts can't be shared out")]
    )
    def test_others_are_refused(self, text, said):
        with pytest.raises(HapaxError, match=said):
            prompts_for(text, 3)

    def test_equal_texts_are_one_prompt(self, scorer):
        rows = embed_texts(["a cat", "a car", "a cat"], scorer)
        assert torch.equal(rows[0], rows[2])
        assert not torch.equal(rows[0], rows[1])


class TestScore:
    """SCE Score."""

    def test_it_is_that_of_the_library(self, varied, scorer, embedded):
        sce, kinds, table, _ = score(varied, scorer)
        expected = schur_complement_entropy(embedded.vectors, embed_texts(embedded.prompts, scorer))
        assert sce == pytest.approx(expected.image, rel=1e-9)
        assert kinds == pytest.approx(expected.image_effective, rel=1e-9)
        assert f"kinds beyond the prompts: {expected.image_effective:.3f} (" in table
        assert "varied: 40 pictures of 2 prompts" in table

    def test_two_settings_are_told_apart(self, varied, uniform, scorer):
        *_, table, plot = score(varied, scorer, compare_with=uniform)
        assert "varied is more diverse than uniform: their intervals lie apart." in table
        assert plot.shape[0] == 1
        assert min(plot.shape[1:3]) >= 512
        for colour in ((0xF2, 0xB8, 0x4B), (0x7F, 0xB4, 0xD6)):
            assert int(((plot[0] - torch.tensor(colour) / 255).abs().amax(-1) < 1e-3).sum()) > 300

    def test_the_same_pictures_are_not(self, varied, scorer):
        assert "may be equally diverse" in score(varied, scorer, compare_with=varied)[2]

    def test_few_pictures_have_no_interval(self, varied, uniform, scorer):
        *_, table, plot = score(varied[:10], scorer, FIREFIGHTER, compare_with=uniform[:10])
        assert "Too few pictures for intervals" in table
        assert plot.shape[3] == 3

    def test_the_gaussian_kernel_and_folds_are_the_library_s(self, varied, scorer, embedded):
        texts = embed_texts(embedded.prompts, scorer)
        expected = schur_complement_entropy(embedded.vectors, texts, kernel="gaussian", sigma=0.7)
        assert score(varied, scorer, kernel="gaussian", sigma=0.7)[0] == pytest.approx(expected.image, rel=1e-9)
        expected = schur_complement_entropy(embedded.vectors, texts, folds=5)
        assert score(varied, scorer, folds=5)[0] == pytest.approx(expected.image, rel=1e-9)

    def test_different_prompts_are_noted(self, varied, scorer):
        table = score(varied, scorer, "\n".join(f"picture {i}" for i in range(40)))[2]
        assert "note: 40 of 40 prompts are different" in table

    @pytest.mark.parametrize(
        ("count", "changed", "said"),
        [
            (1, {"prompts": "a"}, "at least 2"),
            (4, {"prompts": ""}, "No prompt was given for the 4 pictures"),
            (4, {"folds": 1}, "folds is 1; give 2 or more"),
        ],
    )
    def test_bad_input_is_one_sentence(self, varied, scorer, count, changed, said):
        with pytest.raises(HapaxError, match=said):
            score(varied[:count], scorer, **changed)


class TestAccumulate:
    """SCE Accumulate."""

    @pytest.fixture
    def add(self, scorer, request):
        def run(images, reset=False, prompts=FIREFIGHTER, scorer=scorer, name=None):
            return SCEAccumulate.execute(images, scorer, prompts, name or request.node.name, reset, 1e-3).result

        return run

    def test_runs_add_up_to_the_whole(self, add, scorer):
        pictures = emoji("firefighter", 30)
        for start in (0, 10, 20):
            sce, kinds, count, _, plot = add(pictures[start : start + 10])
        whole, *_ = score(pictures, scorer, FIREFIGHTER)
        assert count == 30
        assert sce == pytest.approx(whole, rel=1e-9)
        assert kinds >= 1
        assert min(plot.shape[1:3]) >= 512

    def test_a_batch_counts_once(self, add):
        pictures = emoji("firefighter", 20)
        add(pictures[:10])
        first = add(pictures[10:])
        again = add(pictures[:10])
        assert again[:3] == first[:3]
        assert "this batch was in already" in again[3]

    def test_the_same_pictures_of_another_prompt_count(self, add):
        add(emoji("firefighter", 10))
        assert add(emoji("firefighter", 10), prompts="a photo of a doctor")[2] == 20

    def test_reset_begins_anew_and_may_stay_on(self, add):
        pictures = emoji("firefighter", 20)
        add(pictures)
        assert add(pictures[:8], reset=True)[2] == 8
        assert add(pictures[:8], reset=True)[2] == 8
        assert add(pictures[:8])[2] == 8
        assert add(pictures[8:])[2] == 20

    def test_the_file_does_not_grow(self, add, base_directory, request):
        place = base_directory / "output" / "hapax" / "diversity" / request.node.name / "sums.safetensors"
        pictures = emoji("firefighter", 60)
        add(pictures[:10])
        before = place.stat().st_size
        for start in range(10, 60, 10):
            add(pictures[start : start + 10])
        # The key of a run and its point of the plot, padded.
        assert place.stat().st_size - before < 5 * 64

    def test_it_runs_again_only_when_the_file_changed(self, add, request):
        name = request.node.name
        assert SCEAccumulate.fingerprint_inputs(name=name, reset=False) == ""
        pictures = emoji("firefighter", 20)
        add(pictures[:10])
        first = SCEAccumulate.fingerprint_inputs(name=name, reset=False)
        add(pictures[:10])
        assert SCEAccumulate.fingerprint_inputs(name=name, reset=False) == first
        add(pictures[10:])
        assert SCEAccumulate.fingerprint_inputs(name=name, reset=False) != first
        assert SCEAccumulate.fingerprint_inputs(name="../../..", reset=False) == ""

    def test_one_picture_is_of_one_kind(self, add):
        assert add(emoji("firefighter", 1))[:3] == (1.0, 1.0, 1)
        assert add(emoji("doctor", 3))[2] == 4

    def test_another_scorer_is_refused(self, add, scorer):
        add(emoji("firefighter", 4))
        other = SimpleNamespace(**vars(scorer))
        other.fingerprint = "another"
        with pytest.raises(HapaxError, match="was made with the CLIP scorer"):
            add(emoji("doctor", 4), scorer=other)

    @pytest.mark.parametrize(("name", "said"), [("  ", "has no name"), ("../../x", "is not a file or folder name")])
    def test_a_bad_name_is_refused(self, add, name, said):
        with pytest.raises(HapaxError, match=said):
            add(emoji("doctor", 4), name=name)

    def test_a_damaged_file_is_told_and_reset_repairs_it(self, add, base_directory, request):
        add(emoji("doctor", 4))
        place = base_directory / "output" / "hapax" / "diversity" / request.node.name / "sums.safetensors"
        place.write_bytes(place.read_bytes()[:100])
        with pytest.raises(HapaxError, match="is no safetensors file or is damaged"):
            add(emoji("doctor", 4))
        assert add(emoji("doctor", 4), reset=True)[2] == 4


class TestModes:
    """Diversity Modes."""

    def test_the_ends_of_the_first_are_of_other_styles(self, scorer):
        same = {"gender": "man", "skin": "light skin"}
        flat, night = (emoji("firefighter", 15, style=each, **same) for each in ("flat picture", "night scene"))
        sheet, table = DiversityModes.execute(torch.cat([flat, night]), scorer, FIREFIGHTER, 3, 4, 1e-3).result
        high, low = (set(map(int, end.split(", "))) for end in ends(table.splitlines()[0]))
        assert {min(high) <= 15, max(high) <= 15} != {min(low) <= 15, max(low) <= 15}
        assert max(high) <= 15 or min(high) > 15
        assert max(low) <= 15 or min(low) > 15
        assert table.startswith("1: ")
        assert min(sheet.shape[1:3]) >= 512


def ends(line):
    return line.split("; pictures ")[1].split(" against ")


def test_vendi_and_rke_are_those_of_the_library(varied, scorer, embedded):
    vendi, rke, info = VendiScore.execute(varied, scorer, 1.0, "cosine", 0.5).result
    assert vendi == pytest.approx(vendi_score(embedded.vectors), rel=1e-9)
    assert rke == pytest.approx(rke_score(embedded.vectors), rel=1e-9)
    assert info == f"Vendi score {vendi:.2f}, RKE {rke:.2f}, of 40 pictures"
    gaussian = VendiScore.execute(varied, scorer, 2.0, "gaussian", 0.7).result[0]
    assert gaussian == pytest.approx(rke_score(embedded.vectors, kernel="gaussian", sigma=0.7), rel=1e-9)


class TestRemoval:
    """Fit Prompt Map, Remove Prompt, Keep Prompt."""

    def test_the_subject_goes_and_the_style_stays(self, embedded, fitted):
        styles = torch.tensor([kind.has("night scene") for c in ("firefighter", "doctor") for kind in kinds(c)])
        concepts = torch.arange(40) < 20
        removed = remove(fitted, embedded).vectors
        # A nearest mean, told on its own pictures: generous to what is left of the subject.
        assert accuracy(embedded.vectors, concepts) > 0.95
        assert accuracy(removed, concepts) < 0.65
        assert accuracy(removed, styles) >= accuracy(embedded.vectors, styles) - 0.05

    def test_strength_0_changes_nothing(self, embedded, fitted):
        assert torch.equal(remove(fitted, embedded, strength=0.0).vectors, embedded.vectors)

    def test_norms_are_kept_if_asked(self, embedded, fitted):
        assert torch.allclose(remove(fitted, embedded).vectors.norm(dim=1), torch.ones(40), atol=1e-5)
        assert float(remove(fitted, embedded, keep_norm=False).vectors.norm(dim=1).max()) < 0.99

    def test_kept_and_removed_are_the_whole(self, embedded, fitted):
        kept = KeepPrompt.execute(fitted, "", embedded).result[0].vectors
        rest = remove(fitted, embedded, keep_norm=False).vectors
        assert torch.allclose(kept + rest, embedded.vectors, atol=1e-5)

    def test_what_was_done_is_remembered(self, embedded, fitted):
        removed = remove(fitted, embedded, prompt=DOCTOR)
        assert removed.before is embedded
        assert removed.change == f'without "{DOCTOR}"'
        assert removed.pictures is embedded.pictures
        assert remove(fitted, embedded).change == "without their prompts"

    def test_a_prompt_alone_becomes_the_mean_of_its_pictures(self, embedded, fitted):
        kept, *others = KeepPrompt.execute(fitted, DOCTOR).result
        mean = embedded.vectors[20:].mean(0)
        assert torch.cosine_similarity(kept.vectors[0], mean, dim=0) > 0.999
        assert all(isinstance(each, ExecutionBlocker) for each in others)

    def test_clip_vision_outputs(self, embedded, fitted):
        vision = VisionOutput()
        vision["image_embeds"], vision["last_hidden_state"] = 3 * embedded.vectors[:2], torch.ones(2, 5, 7)
        none, made, _ = RemovePrompt.execute(fitted, FIREFIGHTER, 1.0, True, clip_vision_output=vision).result
        expected = remove(fitted, embedded, prompt=FIREFIGHTER).vectors[:2]
        assert torch.allclose(made["image_embeds"], 3 * expected, atol=1e-5)
        assert made["last_hidden_state"] is vision["last_hidden_state"]
        assert torch.equal(vision["image_embeds"], 3 * embedded.vectors[:2])
        assert isinstance(none, ExecutionBlocker)
        assert "made no EMBEDDINGS" in none.message

    def test_pooled_conditionings(self, scorer):
        attributes = ("woman", "man", "night scene", "line sketch", "dark skin")
        texts = [f"{prompt}, {each}" for prompt in (FIREFIGHTER, DOCTOR) for each in attributes]
        embedded = EmbedTexts.execute(scorer, "\n".join(texts), PROMPTS).result[0]
        fitted, info = FitPromptMap.execute(embedded, 1e-6).result
        assert info.startswith("10 texts of 2 prompts by hapax-emoji: the prompts explain ")
        firefighter, doctor = (
            pooled(RemovePrompt.execute(fitted, prompt, 1.0, True, conditioning=conditioning(row)).result[2])
            for prompt, row in ((FIREFIGHTER, embedded.vectors[:1]), (DOCTOR, embedded.vectors[5:6]))
        )
        before = torch.cosine_similarity(embedded.vectors[0], embedded.vectors[5], dim=0)
        assert torch.cosine_similarity(firefighter[0], doctor[0], dim=0) > before + 0.05

    def test_other_parts_of_a_conditioning_stay(self, scorer):
        embedded = EmbedTexts.execute(scorer, "a cat\na dark cat\na car\na dark car", "a cat\na car").result[0]
        fitted = FitPromptMap.execute(embedded, 1e-6).result[0]
        given = conditioning(embedded.vectors[:1])
        kept = KeepPrompt.execute(fitted, "a cat", conditioning=given).result[2]
        assert kept[0][0] is given[0][0]
        assert kept[0][1]["guidance"] == 3.5
        assert torch.equal(pooled(given), embedded.vectors[:1])
        assert not torch.equal(pooled(kept), pooled(given))

    def test_bad_input_is_one_sentence(self, embedded, fitted, scorer, varied):
        bare = EmbedImages.execute(varied, scorer, "").result[0]
        texts = EmbedTexts.execute(scorer, "a cat\na car", "").result[0]
        vision = VisionOutput()
        vision["image_embeds"] = torch.ones(1, 1024)
        for run, said in (
            (lambda: FitPromptMap.execute(bare, 1e-6), "came without prompts"),
            (lambda: RemovePrompt.execute(fitted, "a", 1.0, True), "Nothing is wired to remove a prompt from"),
            (lambda: KeepPrompt.execute(fitted, " "), "neither a prompt nor anything wired"),
            (lambda: remove(fitted, bare), "No prompt was given for the 40 embeddings"),
            (lambda: remove(fitted, texts, prompt="a"), "are of texts, but the prompt map was fitted on pictures"),
            (
                lambda: RemovePrompt.execute(fitted, "a", 1.0, True, clip_vision_output=vision),
                "has 1024 dimensions, but the prompt map was fitted on 64 of hapax-emoji",
            ),
            (
                lambda: RemovePrompt.execute(fitted, "a", 1.0, True, conditioning=conditioning(torch.ones(1, 64))),
                "is of texts, but the prompt map was fitted on pictures",
            ),
            (lambda: EmbedTexts.execute(scorer, " ", ""), "No text was given to embed"),
        ):
            with pytest.raises(HapaxError, match=said):
                run()


class TestNearest:
    """Nearest Pictures."""

    def test_after_removal_the_style_is_found_across_subjects(self, embedded, fitted, scorer):
        query = emoji("firefighter", 1, style="night scene", gender="woman").roll(1, 1)
        asked = EmbedImages.execute(query, scorer, "").result[0]
        sheet, table = NearestPictures.execute(
            remove(fitted, asked, prompt=FIREFIGHTER), remove(fitted, embedded), 5, 4
        ).result
        before, after = (neighbours(line) for line in table.splitlines())
        assert sum(i <= 20 for i in before) >= 4
        assert sum(i > 20 for i in after) >= 1
        both = [*kinds("firefighter"), *kinds("doctor")]
        assert sum(both[i - 1].has("night scene") for i in after) >= 4
        assert sheet.shape[0] == 1
        assert min(sheet.shape[1:3]) >= 380

    def test_a_picture_is_not_its_own_neighbour(self, embedded):
        _, table = NearestPictures.execute(embedded, embedded, 3, 2).result
        assert [1 in neighbours(table.splitlines()[0]), 2 in neighbours(table.splitlines()[1])] == [False, False]

    def test_words_find_pictures(self, embedded, scorer):
        words = EmbedTexts.execute(scorer, "a photo of a doctor, night scene", "").result[0]
        _, table = NearestPictures.execute(words, embedded, 3, 4).result
        assert all(i > 20 for i in neighbours(table))

    def test_texts_are_no_pictures_to_look_among(self, embedded, scorer):
        words = EmbedTexts.execute(scorer, "a cat", "").result[0]
        with pytest.raises(HapaxError, match="no pictures to look among"):
            NearestPictures.execute(embedded, words, 3, 4)


def kinds(concept):
    """Of the 20 pictures of a concept in `varied`."""
    every = load_world().kinds(concept)
    return [every[i * len(every) // 20 % len(every)] for i in range(20)]


def remove(fitted, embeddings, *, prompt="", strength=1.0, keep_norm=True):
    return RemovePrompt.execute(fitted, prompt, strength, keep_norm, embeddings).result[0]


def accuracy(rows, label):
    means = torch.stack([rows[label == each].mean(0) for each in (False, True)])
    return float((torch.cdist(rows, means).argmin(1).bool() == label).float().mean())


def conditioning(rows):
    return [[torch.zeros(1, 77, 8), {"pooled_output": rows, "guidance": 3.5}]]


def pooled(given):
    return given[0][1]["pooled_output"]


def neighbours(line):
    return [int(each.split(" (")[0]) for each in line.split(": ")[1].split(", ")]

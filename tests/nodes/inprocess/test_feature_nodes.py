"""Find Rare Features and Show Feature, on a recording whose truth is known."""

from __future__ import annotations

import planted as truth
import pytest
import torch
from hapax.core.directions import CaptionIndex, Recipe
from hapax.core.directions.assemble import assemble
from hapax.core.directions.parts import Parts
from hapax.core.directions.texts import Texts
from hapax.core.errors import HapaxError
from hapax.nodes.features import ShowFeature
from hapax.nodes.recording import LoadActivations

pytestmark = pytest.mark.usefixtures("as_the_server_runs")


def test_the_planted_feature_is_found_first(findings):
    features, _, table, _ = findings
    first = features.features[0]
    assert set(first.seeds) <= set(truth.RARE)
    assert first.prevalence["count"] == len(truth.RARE)
    assert first.prevalence["low"] < len(truth.RARE) / truth.PICTURES < first.prevalence["high"]
    assert features.prompt == truth.PROMPT
    assert table.splitlines()[0].startswith(f"{len(features.features)} rare features in 150 pictures")


def test_its_profile_points_along_what_was_planted(findings):
    features, *_ = findings
    direction = features.direction(features.features[0])
    # Of random directions in 128 dimensions one in a million reaches a cosine of .45.
    assert float(direction.vector @ truth.planted_direction()) > 0.6


def test_the_contact_sheet_is_an_image(findings):
    _, sheet, _, _ = findings
    assert sheet.shape[0] == 1
    assert sheet.shape[3] == 3
    assert 0 <= float(sheet.min()) < float(sheet.max()) <= 1
    # The exemplars are blue, and nothing else on the sheet is.
    blue = (sheet[0] - torch.tensor([30, 40, 200]) / 255).abs().amax(-1) < 1e-3
    assert int(blue.sum()) >= 8 * 100 * 100


def test_a_given_autoencoder_is_used_and_finds_the_same(findings, planted, scorer):
    features, _, _, sae = findings
    again = truth.find(planted, scorer, sae=sae).result
    assert again[3] is sae
    assert [f.latents for f in again[0].features] == [f.latents for f in features.features]
    assert all(a.row == b.row for a, b in zip(again[0].features, features.features, strict=True))


def test_without_recorded_embeddings_the_thumbnails_are_embedded(tmp_path, scorer, tiny_models, findings):
    store = truth.record(tmp_path / "bare", tiny_models.build_model("sd15"), scorer, embeddings=False)
    found = truth.find(store, scorer, sae=findings[3]).result[0]
    assert set(found.features[0].seeds) <= set(truth.RARE)


def test_names_come_from_the_phrases_given(planted, scorer, findings):
    found = truth.find(planted, scorer, sae=findings[3], phrases="a blue thing\na red thing\nnothing at all").result[0]
    names = {name for f in found.features for name, _ in f.labels}
    assert names <= {"a blue thing", "a red thing", "nothing at all"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompt": "a cat"}, "has pictures of 'a photo of a firefighter', but the prompt is 'a cat'"),
        ({"phrases": "only one"}, "give at least 2"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(planted, scorer, findings, changed, said):
    with pytest.raises(HapaxError, match=said):
        truth.find(planted, scorer, sae=findings[3], **changed)


def test_an_autoencoder_of_another_site_is_refused(planted, scorer, findings):
    sae = findings[3]
    meta = dict(sae.meta)
    try:
        sae.meta["site"] = "mid:update"
        with pytest.raises(HapaxError, match="for site mid:update, but here it is mid; use the model"):
            truth.find(planted, scorer, sae=sae)
    finally:
        sae.meta = meta


def test_an_interrupt_ends_the_training(planted, scorer):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        truth.find(planted, scorer)
    assert not management.processing_interrupted()


def test_show_feature_gives_sheet_pictures_heatmaps_and_words(findings):
    features = findings[0]
    sheet, pictures, heatmaps, info = ShowFeature.execute(features, "1", 0.75, 5).result
    shown = len(features.features[0].seeds)
    assert pictures.shape == (shown, 64, 64, 3)
    assert heatmaps.shape == (shown, 64, 64)
    # It was planted in the upper right of four cells.
    assert float(heatmaps[:, :32, 32:].mean()) > 5 * float(heatmaps[:, 32:, :32].mean())
    assert float(heatmaps.max()) <= 1
    assert sheet.shape[0] == 1
    assert "shows in 12 of 150 pictures" in info


def test_a_feature_is_chosen_by_number_latent_or_name(findings):
    features = findings[0]
    first = features.features[0]
    assert features.find("1") is first
    assert features.find(f"Latent {first.latent}") is first
    with pytest.raises(HapaxError, match=r"'no such' is not among the features; give the number or the name of"):
        features.find("no such")


def test_a_missing_recording_is_refused(base_directory):
    with pytest.raises(HapaxError, match="There is no recording"):
        LoadActivations.execute("nothing-there")


@pytest.fixture
def captions(planted, tmp_path):
    """An index of captions of which "a blue hat" is what was planted; the others point elsewhere."""
    generator = torch.Generator().manual_seed(3)
    names = ["a blue hat", *(f"thing {i}" for i in range(12))]
    offsets = 10 * torch.nn.functional.normalize(torch.randn(len(names), truth.CHANNELS, generator=generator), dim=1)
    offsets[0] = 10 * truth.planted_direction()
    parts = Parts(tmp_path / "parts", tuple(names), list(range(6)), Recipe(progress=(0.5,)), "m")
    parts.folder.mkdir()
    for span in parts._spans():
        noise = torch.randn(len(span), 6, 1, truth.CHANNELS, generator=generator)
        parts._write(span, offsets[span.start : span.stop, None, None] + noise)
    tensors, reach = assemble(parts, len(names), None)
    made = {key: planted.provenance[key] for key in ("architecture", "model", "versions")}
    meta = {**made, "site": "mid", "channels": truth.CHANNELS, "reach": reach, "neutral": None}
    return CaptionIndex(Texts.of(names), tensors, meta | {"recipe": vars(parts.recipe), "seeds": parts.seeds})


def test_names_come_from_an_index_of_captions(planted, scorer, findings, captions):
    found = truth.find(planted, scorer, sae=findings[3], index=captions).result[0]
    first = found.features[0]
    assert set(first.seeds) <= set(truth.RARE)
    assert first.label == "a blue hat"
    assert found.settings["naming"] == {"by": "index", "captions": 13}
    assert findings[0].settings["naming"]["by"] == "clip"


def test_an_index_of_another_model_is_refused(planted, scorer, findings, captions):
    captions.meta["model"] = "another"
    with pytest.raises(HapaxError, match="The index was built for model another"):
        truth.find(planted, scorer, sae=findings[3], index=captions)

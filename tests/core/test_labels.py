from __future__ import annotations

import pytest
import torch
from hapax.core.distinctiveness import random_offsets, unit_rows
from hapax.core.errors import HapaxError
from hapax.core.feature_stats import FeatureStats
from hapax.core.labels import FeatureCentroid, PhraseLabeller, rank_phrases

PHRASES = ["a sketch", "at night", "a hat", "a beach", "a dog", "a car", "snow", "a crowd"]
WIDTH = 96


def clip_like(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(images, which show a sketch, phrases): meanings are shared but lie in two cones, as CLIP's do."""
    g = torch.Generator().manual_seed(seed)
    meanings = unit_rows(torch.randn(len(PHRASES), WIDTH, generator=g)).float()
    image_cone, text_cone = 2 * unit_rows(torch.randn(2, WIDTH, generator=g)).float()
    shows = torch.rand(500, len(PHRASES), generator=g) < torch.tensor([0.05, 0.1, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1])
    images = image_cone + shows.float() @ meanings + 0.07 * torch.randn(500, WIDTH, generator=g)
    phrases = text_cone + meanings + 0.03 * torch.randn(len(PHRASES), WIDTH, generator=g)
    return images, shows[:, 0], phrases


def centroid_of(images: torch.Tensor, fires: torch.Tensor) -> FeatureCentroid:
    return FeatureCentroid.of(FeatureStats.of(fires.float().unsqueeze(1), images), 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_attributes_own_phrase_comes_first(seed):
    images, sketch, phrases = clip_like(seed)
    feature = centroid_of(images, sketch)
    named = rank_phrases(feature.mean, feature.dataset_mean, phrases, PHRASES, 3)
    assert named is not None
    assert len(named) == 3
    assert named[0][0] == "a sketch"
    assert named[0][1] > 0.6 > named[1][1] >= named[2][1]
    assert PhraseLabeller(PHRASES, phrases, images).label(feature)[0] == named[0]


def test_scores_are_cosines_of_differences():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    named = rank_phrases(
        torch.tensor([2.0, 1.0]),
        torch.tensor([1.0, 1.0]),
        bank,
        ["x", "y"],
        null_directions=torch.tensor([[0.0, -1.0], [0.1, 1.0]]),
        alpha=1.0,
    )
    assert named == [("x", pytest.approx(0.5**0.5)), ("y", pytest.approx(-(0.5**0.5)))]


def test_random_pictures_get_no_name():
    unnamed = 0
    for seed in range(40):
        images, _, phrases = clip_like(seed)
        fires = torch.rand(500, generator=torch.Generator().manual_seed(1000 + seed)) < 0.05
        unnamed += not PhraseLabeller(PHRASES, phrases, images).label(centroid_of(images, fires))
    assert unnamed >= 34


def test_an_attribute_that_no_phrase_names_gets_none():
    images, sketch, phrases = clip_like(0)
    feature = centroid_of(images, sketch)
    assert rank_phrases(feature.mean, feature.dataset_mean, phrases, PHRASES) is not None
    null = random_offsets(unit_rows(images), feature.effective, 500)
    without = rank_phrases(feature.mean, feature.dataset_mean, phrases[1:], PHRASES[1:], null_directions=null)
    assert without is None


def test_isotropic_directions_get_no_name_by_default():
    named = 0
    for seed in range(5):
        g = torch.Generator().manual_seed(100 + seed)
        bank = torch.randn(20, WIDTH, generator=g)
        for offset in torch.randn(60, WIDTH, generator=g):
            phrases = [str(i) for i in range(20)]
            named += rank_phrases(offset, torch.zeros(WIDTH), bank, phrases, seed=seed) is not None
    assert 4 <= named <= 28


def test_no_offset_no_name():
    _, _, phrases = clip_like(0)
    assert rank_phrases(phrases[0], phrases[0], phrases, PHRASES) is None


def test_labels_are_seeded():
    images, sketch, phrases = clip_like(1)
    feature = centroid_of(images, sketch)
    first, again = (PhraseLabeller(PHRASES, phrases, images, k=2).label(feature) for _ in range(2))
    assert first == again
    assert len(first) == 2


def test_a_dead_latent_has_no_centroid():
    stats = FeatureStats.of(torch.zeros(9, 2), torch.randn(9, 4))
    for latent in (0, 2, -1):
        with pytest.raises(HapaxError, match="no centroid"):
            FeatureCentroid.of(stats, latent)


@pytest.mark.parametrize(
    ("mean", "bank", "phrases", "k", "words"),
    [
        (torch.ones(3), torch.ones(2, 4), ["a", "b"], 1, "one model"),
        (torch.full((4,), torch.nan), torch.ones(2, 4), ["a", "b"], 1, "finite"),
        (torch.ones(4), torch.ones(2, 4), ["a"], 1, "at least 2 phrases"),
        (torch.ones(4), torch.ones(1, 4), ["a"], 1, "at least 2 phrases"),
        (torch.ones(4), torch.full((2, 4), torch.inf), ["a", "b"], 1, "embed the phrases again"),
        (torch.ones(4), torch.eye(2, 4), ["a", "b"], 0, "k is 0"),
    ],
)
def test_bad_input_is_refused(mean, bank, phrases, k, words):
    with pytest.raises(HapaxError, match=words):
        rank_phrases(mean, torch.zeros(len(mean)), bank, phrases, k)

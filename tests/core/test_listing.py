"""Which features are listed: on planted mixtures of attributes, each attribute once."""

from __future__ import annotations

import torch
from hapax.core.listing import list_looks
from torch import Tensor

N, E, OWN = 800, 32, 2.3


def mixed(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit embeddings [N, E] with blue and night, alone and together, and which have which.

    Blue at night looks a little like itself only, and so does the rest of the night: else one's look would be
    the other's.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(N)
    night, blue = index < 60, (index % 3 == 0) & (index < 480)
    x = 0.3 * torch.randn(N, E, generator=generator)
    x[:, 0] += 10.0
    x[night, 5] += 4.0
    x[blue, 9] += 3.0
    x[night & blue, 17] += OWN
    x[night & ~blue, 18] += OWN
    return torch.nn.functional.normalize(x, dim=1), night, blue


def fires_on(*sets: Tensor, seed: int = 1) -> Tensor:
    """Activations [N, L] of latents that fire on these pictures."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([each * (1 + torch.rand(N, generator=generator)) for each in sets], 1)


def test_combinations_of_one_attribute_are_listed_as_it() -> None:
    embeddings, night, blue = mixed()
    pooled = fires_on(night & ~blue, night & blue)
    (feature,) = list_looks(pooled, embeddings, [[0], [1]], rare=0.15, min_support=5, listed=10)
    assert feature.group == feature.leads == [0, 1]
    assert torch.equal(feature.seen.shown, night)
    alone = [list_looks(pooled, embeddings, [[i]], rare=0.15, min_support=5, listed=10)[0] for i in (0, 1)]
    assert all(feature.seen.separation > other.seen.separation for other in alone)


def test_what_is_not_rare_together_stays_apart() -> None:
    embeddings, night, blue = mixed()
    pooled = fires_on(night & ~blue, night & blue)
    apart = list_looks(pooled, embeddings, [[0], [1]], rare=0.06, min_support=5, listed=10)
    assert [feature.group for feature in apart] == [[0], [1]]
    assert [int(feature.seen.shown.sum()) for feature in apart] == [40, 20]


def test_two_attributes_are_two_features() -> None:
    embeddings, night, _ = mixed()
    snow = (torch.arange(N) >= 500) & (torch.arange(N) < 540)
    shifted = embeddings.clone()
    shifted[snow, 13] += 0.3
    pooled = fires_on(night, snow)
    listed = list_looks(
        pooled, torch.nn.functional.normalize(shifted, dim=1), [[0], [1]], rare=0.15, min_support=5, listed=10
    )
    assert [feature.leads for feature in listed] == [[0], [1]]
    assert torch.equal(listed[0].seen.shown, night)
    assert torch.equal(listed[1].seen.shown, snow)


def test_the_same_pictures_are_listed_once_and_no_more_than_asked_for() -> None:
    embeddings, night, blue = mixed()
    pooled = fires_on(night, night, night & blue)
    assert [each.group for each in list_looks(pooled, embeddings, [[0], [1]], rare=0.15, min_support=5, listed=10)] == [
        [0]
    ]
    assert list_looks(pooled, embeddings, [[0], [1]], rare=0.15, min_support=5, listed=0) == []
    assert list_looks(pooled, embeddings, [[0]], rare=0.15, min_support=61, listed=10) == []

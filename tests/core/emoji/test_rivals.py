"""Leaning towards a rival counts by itself, however little the two differ to the eye."""

import pytest
import torch
from hapax.core.emoji.rivals import Rivals, one_apart
from hapax.core.emoji.world import World, load_world
from torch import Tensor

CONCEPT = "doctor"


def latents(world: World, skin: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents [K, 1, 8, 8, 8] that are sums of one random vector a value, those of skin tones scaled."""
    generator = torch.Generator().manual_seed(3)
    values = {v for tables in world.truth.values() for table in tables.values() for v in table}
    looks = {v: torch.randn(8, 8, 8, generator=generator) * (skin if "skin" in v else 1.0) for v in sorted(values)}
    return torch.stack([sum(looks[v] for _, v in kind.attributes) for kind in world.kinds()])[:, None], looks


def lean(skin: float) -> tuple[float, float]:
    """How an answer midway between two skin tones is weighed by the rivals, and by a plain square."""
    world = load_world()
    means, looks = latents(world, skin)
    error = 0.5 * (looks["light skin"] - looks["dark skin"])[None]
    number = torch.tensor([world.concepts.index(CONCEPT)])
    return Rivals(world, means).squared(error, number).item(), error.square().mean().item()


def test_a_lean_counts_the_same_however_alike_the_two_look() -> None:
    (plain, square), (alike, smaller) = lean(1.0), lean(0.1)
    assert alike == pytest.approx(plain, rel=0.02)
    assert smaller == pytest.approx(square / 100, rel=1e-4)


def test_what_no_rival_explains_hardly_counts() -> None:
    world = load_world()
    means, _ = latents(world, 0.1)
    noise = 0.05 * torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(4))
    number = torch.tensor([world.concepts.index(CONCEPT)])
    assert Rivals(world, means).squared(noise, number).item() < 0.02 * lean(0.1)[0]


def test_rivals_differ_in_exactly_one_attribute() -> None:
    kinds = load_world().kinds(CONCEPT)
    rivals = [one_apart(kinds[0], other) for other in kinds]
    assert {name: rivals.count(name) for name in set(rivals)} == {None: 40 - 8, "gender": 1, "skin": 4, "style": 3}

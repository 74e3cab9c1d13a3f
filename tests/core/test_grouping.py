from __future__ import annotations

import math

import pytest
import torch
from hapax.core.distinctiveness import unit_rows
from hapax.core.errors import HapaxError
from hapax.core.grouping import centroid_likeness, group_latents, picture_overlap
from hapax.core.rarity import score_features

ATTRIBUTES = {"sketch": 0.05, "night": 0.06, "hat": 0.12}


def world(seed: int, n: int = 600, width: int = 64) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Three independent attributes, and six latents for each: all of its pictures, a part, its two halves."""
    g = torch.Generator().manual_seed(seed)
    columns, names = [], []
    e = torch.randn(n, width, generator=g) * 0.09 + 0.12
    for i, (name, share) in enumerate(ATTRIBUTES.items()):
        has = torch.rand(n, generator=g) < share
        e[has, 7 * i] += 0.7
        half = torch.rand(n, generator=g) < 0.5
        part, noise = torch.rand(2, n, generator=g)
        sets = [has, has & (part < 0.7), has & half, has & ~half, has | (noise < 0.01), has & (part < 0.9)]
        for fires in sets:
            columns.append(fires * torch.exp(0.5 * torch.randn(n, generator=g)))
            names.append(name)
    return torch.stack(columns, 1), e, names


@pytest.mark.parametrize("seed", range(4))
def test_one_group_per_attribute(seed):
    z, e, names = world(seed)
    table = score_features(z, e).findings()
    groups = group_latents(z, e, table)
    assert sorted(latent for group in groups for latent in group) == sorted(table.latent.tolist())
    attributes = [{names[latent] for latent in group} for group in groups]
    assert all(len(found) == 1 for found in attributes)
    assert len(groups) <= len(ATTRIBUTES) + 1
    assert set().union(*attributes) == set(ATTRIBUTES)


def test_groups_are_in_rank_order_and_led_by_their_best():
    z, e, _ = world(0)
    table = score_features(z, e).findings()
    rank = {latent: i for i, latent in enumerate(table.latent.tolist())}
    groups = [[rank[latent] for latent in group] for group in group_latents(z, e, table)]
    assert all(group == sorted(group) for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)


def test_copies_join_whatever_their_scale():
    z, e, _ = world(1)
    z = torch.cat([z[:, :1], 1000 * z[:, :1], z[:, 6:7]], 1)
    groups = group_latents(z, e, score_features(z, e))
    assert sorted(sorted(group) for group in groups) == [[0, 1], [2]]


def test_thresholds_decide():
    z, e, _ = world(2)
    table = score_features(z, e).findings()
    assert len(group_latents(z, e, table, overlap=1.1, likeness=1.1)) == len(table)
    assert len(group_latents(z, e, table, overlap=-1.0)) == 1


def test_two_halves_of_one_attribute_are_alike_though_they_share_no_picture():
    z, e, _ = world(3)
    halves, other = z[:, [2, 3]].double(), z[:, 8:9].double()
    assert picture_overlap(halves)[0, 1] < 0.05
    assert centroid_likeness(halves, unit_rows(e))[0, 1] > 0.9
    assert centroid_likeness(torch.cat([halves, other], 1), unit_rows(e))[0, 2].abs() < 0.4


def test_likeness_is_not_made_by_the_pictures_that_latents_share():
    g = torch.Generator().manual_seed(0)
    likeness, plain = [], []
    for _ in range(100):
        attributes = torch.rand(400, 2, generator=g) < 0.04
        e = torch.randn(400, 64, generator=g) * 0.12 + 0.12
        e[attributes[:, 0], 0] += 0.6
        e[attributes[:, 1], 1] += 0.6
        e = unit_rows(e)
        shared = torch.rand(400, 1, generator=g) < 0.08
        both = (attributes | shared).double()
        likeness.append(centroid_likeness(both, e)[0, 1])
        offsets = unit_rows((both / both.sum(0)).T @ e - e.mean(0))
        plain.append(offsets[0] @ offsets[1])
    assert torch.stack(plain).mean() > 0.2
    assert torch.stack(likeness).mean().abs() < 0.1


def test_overlap_is_zero_by_chance_whatever_the_frequency():
    g = torch.Generator().manual_seed(0)
    for frequency in (0.05, 0.5, 0.95):
        z = torch.rand(2000, 30, generator=g) * (torch.rand(2000, 30, generator=g) < frequency)
        off = picture_overlap(z)[~torch.eye(30, dtype=torch.bool)]
        assert off.mean().item() == pytest.approx(0, abs=0.03)
        assert off.max() < 0.15


def test_overlap_in_closed_form():
    z = torch.tensor([[1.0, 1.0, 0.0, 5.0], [1.0, 1.0, 0.0, 5.0], [0.0, 1.0, 1.0, 5.0], [0.0, 0.0, 1.0, 5.0]])
    phi = 1 / math.sqrt(3)
    expected = torch.tensor([[1, phi, -1, 0], [phi, 1, -phi, 0], [-1, -phi, 1, 0], [0, 0, 0, 0]]).double()
    torch.testing.assert_close(picture_overlap(z), expected)


def test_latents_that_fire_everywhere_are_compared_by_strength():
    strength = torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.5
    assert picture_overlap(torch.stack([strength, 3 * strength], 1))[0, 1].item() == pytest.approx(1)


def test_only_the_top_is_grouped():
    z, e, _ = world(0)
    table = score_features(z, e)
    groups = group_latents(z, e, table, top=5)
    assert sorted(x for group in groups for x in group) == sorted(table.latent[:5].tolist())


def test_an_empty_table_has_no_groups():
    z, e, _ = world(0)
    assert group_latents(z, e, score_features(z, e)[:0]) == []


def test_bad_input_is_refused():
    z, e, _ = world(0)
    table = score_features(z, e)
    with pytest.raises(HapaxError, match="that were scored"):
        group_latents(z[:, :4], e, table)
    with pytest.raises(HapaxError, match="one row per picture"):
        group_latents(z[:-1], e, table)
    with pytest.raises(HapaxError, match="NaN"):
        group_latents(z * math.nan, e, table)

"""Dials, combinations, clusters and maps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.direction import Direction
from hapax.core.directions import Dial, cluster, combine, flat_map, record_dial
from hapax.core.errors import HapaxError
from hapax.core.pattern import Pattern
from hapax.core.steering import Scope
from hapax.core.taps import Recorder


@pytest.fixture
def dial() -> Dial:
    change = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    return Dial(change, (0.2, 0.6), "mid", {"label": "x"})


def test_a_dial_pushes_by_its_pattern_within_scope(dial, make_step) -> None:
    h, last = torch.randn(2, 6, 4, 4), dial.change[1].permute(2, 0, 1)
    first = dial.change[0].permute(2, 0, 1)
    for progress, share in ((0.0, 1.0), (0.2, 1.0), (0.3, 0.75), (0.6, 0.0), (1.0, 0.0)):
        pushed = dial.tap(3.0)(h, make_step(h, progress=progress))
        torch.testing.assert_close(pushed, h + 3 * (share * first + (1 - share) * last))
    assert dial.tap(0.0)(h, make_step(h)) is h
    assert dial.tap(1.0, Scope(end=0.4))(h, make_step(h, progress=0.5)) is h
    half = dial.tap(2.0, Scope(profile=[(0.0, 0.5)]))(h, make_step(h, 0.6, cond=[True, False]))
    torch.testing.assert_close(half[0], h[0] + last)
    assert torch.equal(half[1], h[1])


def test_as_a_direction_it_pushes_the_same_from_a_file_too(dial, make_step, tmp_path: Path) -> None:
    direction, h = dial.patterned(), torch.randn(2, 6, 4, 4)
    direction.save(tmp_path / "d.safetensors")
    assert torch.equal(direction.vector, dial.direction().vector)
    for each in (direction, Direction.load(tmp_path / "d.safetensors")):
        for progress in (0.0, 0.2, 0.3, 0.6, 1.0):
            step = make_step(h, progress=progress)
            torch.testing.assert_close(each.tap(3.0)(h, step), dial.tap(3.0)(h, step), atol=1e-4, rtol=1e-4)
        assert each.tap(0.0)(h, make_step(h)) is h
    # Fewer vectors than channels leave the least out that so many can.
    x = dial.change.flatten(0, 2)
    rough = dial.patterned(2)
    left = (rough.pattern.shown @ rough.rows - dial.change).square().sum()
    assert float(left) == pytest.approx(float(torch.linalg.svdvals(x)[2:].square().sum()), rel=1e-4)


def test_saving_keeps_it_to_half_precision(dial, tmp_path: Path) -> None:
    dial.save(tmp_path / "p.safetensors")
    again = Dial.load(tmp_path / "p.safetensors", {"site": "mid", "channels": 6})
    assert again.progress == dial.progress
    assert again.meta == dial.meta
    assert torch.equal(again.change, dial.change.half().float())
    with pytest.raises(HapaxError, match="channels 6"):
        Dial.load(tmp_path / "p.safetensors", {"channels": 8})
    (tmp_path / "p.safetensors").write_bytes(b"x")
    with pytest.raises(HapaxError, match="damaged"):
        Dial.load(tmp_path / "p.safetensors")


def test_a_recorded_dial_is_the_paired_difference(tiny_pipelines) -> None:
    backend = DiffusersBackend(tiny_pipelines.build("sd1"))
    calls: list[tuple[str, int, int]] = []
    options = {"seeds": [3, 4], "steps": 2, "guidance": 1.0}
    dial = record_dial(backend, "a cat", "a dog", progress=lambda *call: calls.append(call), **options)
    assert calls[-1] == ("recording", 4, 4)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    means = {}
    for prompt in ("a cat", "a dog"):
        recorder = Recorder(dial.progress)
        backend.sample(prompt, [3, 4], {"mid": recorder}, steps=2, guidance=1.0)
        means[prompt] = (recorder.take(0)[0] + recorder.take(1)[0]) / 2
    expected = means["a cat"] - means["a dog"]
    torch.testing.assert_close(dial.change.flatten(1, 2), expected, atol=1e-5, rtol=1e-4)
    assert F.cosine_similarity(dial.direction().vector, expected.mean((0, 1)), dim=0) > 0.9999
    assert dial.meta["model"] == backend.fingerprint()


@pytest.mark.parametrize(
    ("change", "progress", "said"),
    [
        (torch.ones(2, 3, 4), [0.1, 0.2], r"shape \(2, 3, 4\)"),
        (torch.ones(2, 3, 4, 4), [0.1], "1 points"),
        (torch.ones(2, 3, 4, 4), [0.2, 0.1], "ascending"),
        (torch.full((1, 3, 4, 4), torch.nan), [0.1], "finite"),
    ],
)
def test_bad_dials(change, progress, said: str) -> None:
    with pytest.raises(HapaxError, match=said):
        Dial(change, progress, "mid")
    with pytest.raises(HapaxError, match="both 'a'"):
        record_dial(None, "a", "a", seeds=2)


def test_combined_directions_push_as_all_of_them(make_step) -> None:
    x, y = torch.eye(6)[:2]
    rising = Direction(x, "mid", 2.0, {"label": "x"}, [(0.0, 0.0), (1.0, 1.0)])
    steady = Direction(y, "mid", 3.0, {"label": "y"})
    h = torch.randn(1, 6, 2, 2)
    both = combine([steady, Direction(x, "mid", 2.0)], [1.0, -0.5])
    expected = h + (3 * y - x)[:, None, None]
    torch.testing.assert_close(both.tap(1.0)(h, make_step(h)), expected)
    turning = combine([rising, steady])
    mean = (torch.stack([3 * y, 3 * y + 2 * x])).mean(0)
    torch.testing.assert_close(turning.vector * turning.scale, mean)
    assert turning.profile[0][1] < 1 < turning.profile[1][1]
    assert turning.meta["label"] == "x + y"


@pytest.mark.parametrize(
    ("given", "weights", "said"),
    [
        ([], None, "0 directions"),
        (["mid"], [1.0, 2.0], "1 directions and 2 weights"),
        (["mid", "double.1"], None, "site"),
        (["mid", "mid"], [1.0, -1.0], "cancel"),
    ],
)
def test_bad_combinations(given: list[str], weights, said: str) -> None:
    with pytest.raises(HapaxError, match=said):
        combine([Direction(torch.ones(3), site) for site in given], weights)


def test_clusters_and_maps_follow_planted_groups() -> None:
    g = torch.Generator().manual_seed(0)
    centres, sizes = 5 * torch.randn(3, 20, generator=g), (30, 20, 10)
    group = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    offsets = centres[group] * (0.5 + torch.rand(60, 1, generator=g)) + torch.randn(60, 20, generator=g)
    assert torch.equal(cluster(offsets, 3), group)
    places = flat_map(offsets)
    assert places.shape == (60, 2)
    middle = torch.stack([places[group == i].mean(0) for i in range(3)])
    assert torch.equal(torch.cdist(places, middle).argmin(1), group)
    assert torch.equal(flat_map(offsets), places)
    with pytest.raises(HapaxError, match="1 clusters"):
        cluster(offsets, 1)
    with pytest.raises(HapaxError, match="map of 2 captions"):
        flat_map(offsets[:2])


def test_umap_is_said_to_be_missing_and_keeps_groups_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    group = torch.arange(90) % 3
    offsets = 5 * torch.randn(3, 20, generator=g)[group] + torch.randn(90, 20, generator=g)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "umap", None)
        with pytest.raises(
            HapaxError, match="UMAP needs the package umap-learn, which is not here; install it, or use"
        ):
            flat_map(offsets, "umap")
    with pytest.raises(HapaxError, match="A tsne map of 90 captions can't be drawn; give pca or umap"):
        flat_map(offsets, "tsne")
    pytest.importorskip("umap", reason="umap-learn is not installed: that UMAP keeps groups together is NOT tested")
    places = flat_map(offsets, "umap")
    middle = torch.stack([places[group == i].mean(0) for i in range(3)])
    assert torch.equal(torch.cdist(places, middle).argmin(1), group)


def test_a_direction_with_a_pattern_is_not_flattened() -> None:
    patterned = Pattern(torch.arange(1), torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.tensor([0.2, 0.8]))
    one = Direction(torch.eye(3)[0], "mid", pattern=patterned, rows=torch.ones(1, 3))
    with pytest.raises(HapaxError, match="one after the other"):
        combine([one, Direction(torch.eye(3)[1], "mid")])

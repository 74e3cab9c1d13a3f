"""Rounds of training: which pictures of a guided model count, and how a training goes on with a module."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.collect import Sampling
from hapax.core.errors import HapaxError
from hapax.core.invdiff import GuidanceConfig, PictureSet, load_guidance, make_pictures, train_guidance
from hapax.core.invdiff.evaluation import Guided
from hapax.core.invdiff.rounds import joined, later, ordinary
from hapax.core.invdiff.session import GuidanceSession, SessionSettings

CONFIG = GuidanceConfig(steps=6, batch_size=4, lr=1e-2, save_every=2)
SAMPLING = Sampling(2, 1.0, 4)


@pytest.fixture(scope="module")
def backend(tiny_pipelines):
    made = tiny_pipelines.sd1()
    made.unet = tiny_pipelines.unet(block_out_channels=(32, 64))
    return DiffusersBackend(made)


def quiet(stage: str, done: int, total: int) -> None:
    return None


def session(backend, out, **changed):
    settings = {"prompts": ("a cat", "a dog"), "pictures": None, "images": 6, "sampling": SAMPLING, "groups": 2}
    return GuidanceSession(backend, SessionSettings(**settings | changed), CONFIG, out, quiet)


def test_a_stray_is_left_out_and_a_rare_kind_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    usual, rare = torch.randn(200, 4, generator=g), torch.randn(5, 4, generator=g) + 4
    guided = torch.cat([torch.randn(100, 4, generator=g), torch.randn(60, 4, generator=g) + 4])
    stray = torch.randn(2, 4, generator=g) * 10 - 20
    table = torch.cat([usual, rare, guided, stray])
    kept = ordinary(table, torch.zeros(len(table), dtype=torch.long), own=205)
    assert kept[:205].all()
    assert not kept[-2:].any()
    assert kept[205:305].float().mean() > 0.95
    assert kept[305:-2].float().mean() > 0.7


def test_prompts_are_judged_apart() -> None:
    g = torch.Generator().manual_seed(0)
    prompt = torch.tensor([0] * 50 + [1] * 50 + [0, 1])
    table = torch.randn(102, 8, generator=g) + 30.0 * prompt[:, None]
    # Each guided picture is of the other prompt's kind.
    table[100], table[101] = table[50], table[0]
    assert ordinary(table, prompt, own=100)[100:].tolist() == [False, False]


def test_a_training_goes_on_with_the_module(backend) -> None:
    pictures = make_pictures(backend, ["a cat"], range(6), SAMPLING)
    weights = torch.eye(2).repeat(3, 1)
    first = train_guidance(backend, pictures, weights, CONFIG)
    still = train_guidance(backend, pictures, weights, dataclasses.replace(CONFIG, steps=1, lr=1e-12), start=first)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(still.state_dict()[name], tensor)
    other = dataclasses.replace(CONFIG, hidden=first.shape.hidden // 2)
    with pytest.raises(HapaxError, match="go on at its site and width"):
        train_guidance(backend, pictures, weights, other, start=first)


def test_a_round_trains_on_pictures_under_the_one_before(backend, tmp_path) -> None:
    """What a session does in two rounds is done here by hand."""
    path = session(backend, tmp_path / "two", rounds=2).run()
    first = load_guidance(session(backend, tmp_path / "one").run())
    prompts = ("a cat", "a dog")
    own = make_pictures(backend, prompts, range(6), SAMPLING)
    guided = make_pictures(Guided(backend, first), prompts, range(6), SAMPLING)
    assert not torch.equal(own.latents, guided.latents)
    both = joined(own, guided, 2)
    assert isinstance(both, PictureSet)
    assert both.ids[11:13] == ("1:5", "round 2: 0:0")
    known = session(backend, tmp_path / "two", rounds=2)._known(tmp_path / "two" / "round-2", both, torch.zeros(12, 1))
    assert len(known.table) == 24
    assert known.kept[:12].all()
    by_hand = train_guidance(
        backend,
        both.part(known.kept),
        known.weights,
        later(CONFIG),
        probabilities=known.probabilities,
        start=first,
    )
    for name, tensor in load_guidance(path).state_dict().items():
        torch.testing.assert_close(tensor, by_hand.state_dict()[name])


def test_a_second_round_can_be_added_later(backend, tmp_path) -> None:
    whole = load_guidance(session(backend, tmp_path / "whole", rounds=2).run())
    session(backend, tmp_path / "parts").run()
    parts = load_guidance(session(backend, tmp_path / "parts", rounds=2).run(resume=True))
    assert all(torch.equal(tensor, parts.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_bad_rounds_are_one_sentence(backend, tmp_path) -> None:
    with pytest.raises(HapaxError, match="rounds is 0; give 1 or more"):
        session(backend, tmp_path, rounds=0)
    with pytest.raises(HapaxError, match="the pictures are those of a folder"):
        session(backend, tmp_path, rounds=2, pictures=tmp_path)

"""The compass: mixtures whose shares are known are read, from few seeds too."""

from __future__ import annotations

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.directions import compare
from hapax.core.directions.compass import read_mixture
from hapax.core.errors import HapaxError
from torch import Tensor

CHANNELS = 24


def world(shares: list[float], seeds: int, seed: int, noise: float = 2.0) -> Tensor:
    """Activations [K + 1, R, C]: a prompt whose pictures are of K kinds with these shares, then the kinds."""
    kinds = 2 * torch.randn(len(shares), CHANNELS, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(torch.tensor(shares), seeds, replacement=True, generator=g)
    clean = torch.cat([kinds[drawn][None], kinds[:, None].expand(-1, seeds, -1)])
    common = torch.randn(seeds, CHANNELS, generator=g)
    return clean + common + noise * torch.randn(clean.shape, generator=g)


@pytest.mark.parametrize("shares", [[0.9, 0.1], [0.5, 0.5], [0.05, 0.15, 0.5, 0.3, 0.0]])
def test_shares_of_a_known_mixture_are_read(shares: list[float]) -> None:
    poles = [f"pole {i}" for i in range(len(shares))]
    reading = read_mixture("p", poles, world(shares, 4000, 0), replicates=50)
    assert [share for share, *_ in reading.shares.values()] == pytest.approx(shares, abs=0.03)
    assert sum(share for share, *_ in reading.shares.values()) == pytest.approx(1, abs=1e-6)
    if len(shares) == 2:
        assert reading.lean.value == pytest.approx(shares[0] - shares[1], abs=0.05)
        assert reading.lean.low < shares[0] - shares[1] < reading.lean.high
    assert reading.lean.p < 0.01


@pytest.mark.parametrize("seeds", [12, 40])
def test_few_seeds_give_no_bias_and_intervals_that_cover(seeds: int) -> None:
    """Discriminants fitted to so few err often; they err alike on the prompt and on the poles."""
    x = [world([0.9, 0.1], seeds, s, 4.0) for s in range(100)]
    leans = [read_mixture("p", ["a", "b"], each, replicates=200).lean for each in x]
    values = torch.tensor([lean.value for lean in leans])
    assert float(values.mean()) == pytest.approx(0.8, abs=3 * float(values.std()) / 100**0.5)
    assert sum(lean.low <= 0.8 <= lean.high for lean in leans) >= 90


def test_a_kind_that_happens_to_be_among_no_picture_is_not_ruled_out() -> None:
    reading = read_mixture("p", ["a", "b"], world([1.0, 0.0], 20, 0, 0.5), replicates=200)
    share, low, high = reading.shares["b"]
    assert (share, low) == (pytest.approx(0, abs=0.02), 0)
    # Were there 10 %, one in eight such samples would have none.
    assert 0.1 < high < 0.3
    assert reading.lean.low == pytest.approx(1 - 2 * high, abs=0.02)


def test_kinds_on_one_line_are_told_apart() -> None:
    """The middle one's mean is the mean of the others', so no mixture of means can tell."""
    g = torch.Generator().manual_seed(0)
    along, places = torch.randn(CHANNELS, generator=g), torch.tensor([-1.0, 0.0, 1.0])
    drawn = torch.multinomial(torch.tensor([0.2, 0.7, 0.1]), 500, replacement=True, generator=g)
    x = torch.stack([places[drawn], *(place.expand(500) for place in places)])[..., None] * along
    reading = read_mixture("p", ["low", "middle", "high"], x + 0.5 * torch.randn(x.shape, generator=g), replicates=20)
    assert [share for share, *_ in reading.shares.values()] == pytest.approx([0.2, 0.7, 0.1], abs=0.04)


def test_poles_that_are_not_told_apart_say_so() -> None:
    x = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(1))
    assert read_mixture("p", ["a", "b"], x, replicates=50).lean.p > 0.05


@pytest.mark.parametrize(
    ("family", "site"), [("sd1", "mid"), ("sdxl", "mid"), ("sd3", "double.1"), ("flux", "single.0")]
)
def test_a_prompt_that_is_one_of_the_poles_leans_fully(tiny_pipelines, tmp_path, family: str, site: str) -> None:
    backend = DiffusersBackend(tiny_pipelines.build(family))
    options = {"seeds": 6, "steps": 2, "guidance": 1.0, "folder": tmp_path, "site": site}
    if family == "flux":
        # By itself even the smallest one pads its text to 512 tokens and makes pictures of 1,024 pixels.
        options["size"] = {"max_sequence_length": 16, "height": 32, "width": 32}
    first, second = compare(backend, ["a cat", "a dog"], ["{}", "a tree"], **options)
    assert first.lean[:3] == ("{}", "a tree", pytest.approx(1.0, abs=1e-3))
    assert first.row()["shares"][0]["share"] == pytest.approx(1.0, abs=1e-3)
    assert second.prompt == "a dog"
    again = compare(backend, ["a cat", "a dog"], ["{}", "a tree"], **options)
    assert [reading.row() for reading in again] == [first.row(), second.row()]


@pytest.mark.parametrize(
    ("prompts", "poles", "seeds", "said"),
    [
        ("a", ["x"], 8, "poles are"),
        ("a", ["x", "x"], 8, "each once"),
        ("a", "xy", 8, "one text"),
        ([], ["x", "y"], 8, "prompts are"),
        ("a", list("rstuvwxyz"), 8, "9 poles"),
        ("a", ["x", "y"], 3, "3 seeds; give at least 4"),
    ],
)
def test_bad_input(prompts, poles, seeds: int, said: str) -> None:
    with pytest.raises(HapaxError, match=said):
        compare(None, prompts, poles, seeds=seeds)

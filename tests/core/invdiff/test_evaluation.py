from __future__ import annotations

import pytest
import torch
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.collect import Sampling
from hapax.core.errors import HapaxError
from hapax.core.invdiff.evaluation import Guided, Judged, bias_row
from hapax.core.invdiff.metrics import bias_floor, bias_score, kl_interval, kl_to_uniform
from hapax.core.invdiff.module import GuidanceModule, GuidanceShape
from hapax.core.report.kinds import Maybe
from hapax.core.report.shape import _bias

FAST = Sampling(steps=2, guidance=1.0, batch_size=2)


def unit(*rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_pictures_count_for_the_nearest_group_and_show_the_first_concept():
    groups, concepts = unit([1, 0, 0], [0, 1, 0]), unit([1, 1, 0], [0, 0, 1])
    pictures = unit([5, 1, 0], [4, 1, 0], [1, 9, 0], [0.1, 0, 9])
    judged = Judged.by_clip(pictures, groups, concepts)
    assert judged.counts.tolist() == [3, 1]
    assert (judged.concept, judged.total) == (3, 4)
    assert judged.diversity["n"] == 4
    assert Judged.by_clip(pictures, groups).concept is None


def test_a_row_is_what_its_counts_give():
    noise = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    before = Judged(torch.tensor([45, 5]), 50, Judged.by_clip(noise, noise[:2]).diversity)
    after = Judged(torch.tensor([30, 20]), 48)
    row = bias_row("a photo of a cook", ["woman", "man"], before, after)
    assert row["bias_before"] == bias_score([45, 5]) == 0.8
    assert row["kl_after"] == kl_to_uniform([30, 20])
    assert row["floor"] == bias_floor(2, 50)
    assert row["groups"][1]["after"]["rate"] == 0.4
    assert row["concept_after"]["count"] == 48
    assert row["sce_after"] is None
    for name in ("bias_before", "bias_after", "kl_before", "kl_after"):
        low, high = row[f"{name}_interval"]
        assert 0 <= low <= row[name] <= high
    Maybe(_bias).check(row, "row")
    with pytest.raises(HapaxError, match="3 names for 2 and 2 groups"):
        bias_row("", ["a", "b", "c"], before, after)


@pytest.mark.parametrize("counts", [[5], [0, 0]])
def test_counts_that_say_nothing_are_refused(counts):
    with pytest.raises(HapaxError, match="give two groups or more"):
        Judged(torch.tensor(counts))


def test_the_interval_of_the_divergence_holds_it_and_narrows():
    few, many = kl_interval([8, 2]), kl_interval([800, 200])
    assert few[0] == pytest.approx(many[0])
    assert many[2] - many[1] < (few[2] - few[1]) / 3
    assert kl_interval([5, 5])[0] == 0


class Embedder:
    """Mean colours, which is all that these pictures have."""

    def images(self, pictures):
        colours = [torch.tensor(list(each.resize((1, 1)).getpixel((0, 0))), dtype=torch.float32) for each in pictures]
        return torch.nn.functional.normalize(torch.stack(colours) + 1, dim=1)


def test_guided_pictures_are_the_sampler_s_under_the_module(tiny_pipelines, tmp_path):
    backend = DiffusersBackend(tiny_pipelines.sd1())
    site = backend.sites["mid"]
    module = GuidanceModule(GuidanceShape("mid", site.channels, 16, hidden=8)).requires_grad_(False)
    module.last.bias.fill_(3.0)
    guided = Guided(backend, module)
    latents = guided.sample(["a cat"], [3], {}, steps=2, guidance=1.0, output="latent")
    assert torch.equal(latents, backend.sample("a cat", [3], {"mid": module}, steps=2, guidance=1.0, output="latent"))
    assert not torch.equal(latents, backend.sample("a cat", [3], steps=2, guidance=1.0, output="latent"))
    told: list[tuple] = []
    given = (Embedder(), ["a cat", "a dog"], [3, 4], FAST, tmp_path, lambda *each: told.append(each))
    found = guided.embeddings(*given)
    assert found.shape == (2, 2, 3)
    assert told[-1] == ("embedding", 4, 4)
    assert len(list(tmp_path.iterdir())) == 2
    module.set_strength(0.5)
    with pytest.raises(HapaxError, match="was made with another model"):
        guided.embeddings(*given)

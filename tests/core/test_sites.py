from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hapax.core.errors import HapaxError
from hapax.core.sites import Site, find_sites, select_site, site_module

EXPECTED = {
    "sd1": {"mid": 16, "eps": 4},
    "sdxl": {"mid": 16, "eps": 4},
    "sd3": {"double.0": 16, "double.1": 16, "double.2": 16, "eps": 4},
    "flux": {"double.0": 16, "double.1": 16, "single.0": 16, "single.1": 16, "eps": 16},
}


def denoiser_of(pipeline):
    return getattr(pipeline, "unet", None) or pipeline.transformer


@pytest.mark.parametrize("name", EXPECTED)
def test_sites_of_each_architecture(tiny_pipelines, name):
    sites = find_sites(denoiser_of(tiny_pipelines.build(name)))
    assert {key: site.channels for key, site in sites.items()} == EXPECTED[name]
    assert all(site == Site(key, "output", site.channels, "img") for key, site in sites.items())


@pytest.mark.parametrize(
    ("name", "site", "path"),
    [
        ("sd1", "mid", "mid_block"),
        ("sd3", "double.2", "transformer_blocks.2"),
        ("flux", "double.1", "transformer_blocks.1"),
        ("flux", "single.1", "single_transformer_blocks.1"),
        ("flux", "eps", ""),
    ],
)
def test_the_module_of_a_site(tiny_pipelines, name, site, path):
    denoiser = denoiser_of(tiny_pipelines.build(name))
    assert site_module(denoiser, find_sites(denoiser)[site]) is denoiser.get_submodule(path)


def test_a_unet_without_middle_block_has_no_mid(tiny_pipelines):
    assert set(find_sites(tiny_pipelines.unet(mid_block_type=None))) == {"eps"}


def test_an_unknown_denoiser_is_refused():
    with pytest.raises(HapaxError, match=r"is a Linear, .* use one of UNet2DConditionModel, SD3"):
        find_sites(torch.nn.Linear(1, 1))


SITES = {"mid": Site("mid", "output", 8, "img"), "eps": Site("eps", "output", 4, "img")}


@pytest.mark.parametrize("kind", ["output", "update"])
def test_a_site_is_selected_by_its_own_text(kind):
    site = replace(SITES["mid"], kind=kind)
    assert select_site(SITES, str(site)) == site
    assert select_site(SITES, site) == site


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("down.0", r"no site 'down.0' in this denoiser; it has mid, eps\."),
        ("mid:input", "kind 'input'; mid can be read as output or update"),
        ("eps:update", "kind 'update'; eps can be read as output"),
        (Site("mid", "output", 1280, "img"), "stands for 1280 channels of img tokens, .* has 8 of img"),
        (Site("mid", "update", 8, "joint"), "stands for 8 channels of joint tokens, .* has 8 of img"),
    ],
)
def test_a_wrong_site_is_refused_in_one_sentence(key, sentence):
    with pytest.raises(HapaxError, match=sentence):
        select_site(SITES, key)


def test_numbered_blocks_are_listed_as_runs(tiny_pipelines):
    sites = find_sites(denoiser_of(tiny_pipelines.build("flux")))
    with pytest.raises(HapaxError, match=r"it has double.0 to double.1, single.0 to single.1, eps\."):
        select_site(sites, "mid")

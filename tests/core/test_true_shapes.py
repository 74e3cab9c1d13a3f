"""Sites of SD1.5, SDXL, SD3 and Flux at their true shapes, on the meta device: no memory, no weights."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hapax.core.activation_layout import estimate_bytes
from hapax.core.activations import ActivationStore
from hapax.core.sites import find_sites, site_module

BENCHMARK = Path(__file__).parents[2] / "benchmarks/larger_models.py"


@pytest.fixture(scope="module")
def larger() -> ModuleType:
    spec = importlib.util.spec_from_file_location("larger_models", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["larger_models"] = module
    spec.loader.exec_module(module)
    return module


# Parameters as they are published, to the unit or to the digits given.
EXPECTED = {
    "sd15": (859_520_964, 0, {"mid": 1280, "eps": 4}),
    "sdxl": (2_567_463_684, 0, {"mid": 1280, "eps": 4}),
    "sd3": (2.03e9, 6e7, {f"double.{i}": 1536 for i in range(24)} | {"eps": 16}),
    "flux": (
        11.9e9,
        1e8,
        {f"double.{i}": 3072 for i in range(19)} | {f"single.{i}": 3072 for i in range(38)} | {"eps": 64},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_sites_at_true_shapes(larger: ModuleType, name: str) -> None:
    parameters, tolerance, channels = EXPECTED[name]
    denoiser = larger.on_meta(name)
    assert sum(p.numel() for p in denoiser.parameters()) == pytest.approx(parameters, abs=tolerance)
    sites = find_sites(denoiser)
    assert {key: site.channels for key, site in sites.items()} == channels
    assert all(site_module(denoiser, site) is not None for site in sites.values())
    assert larger.MODELS[name].site in sites


@pytest.mark.parametrize(("name", "tokens"), [("sd15", 64), ("sdxl", 1024)])
def test_the_middle_block_has_the_stated_grid(larger: ModuleType, name: str, tokens: int) -> None:
    model, seen = larger.MODELS[name], []
    with larger.fake():
        denoiser = model.build()
        denoiser.mid_block.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
        denoiser(**larger.inputs(name, model, denoiser, model.pixels // 8, 1))
    assert seen == [(1, 1280, model.grid(), model.grid())]
    assert model.grid() ** 2 == tokens


def test_stated_bytes_are_those_on_disk(larger: ModuleType, tmp_path: Path) -> None:
    layout, n = larger.layout_of("sdxl", 1280), 3
    steps, positions = torch.tensor(layout.steps), torch.tensor(layout.positions)
    labels = {"step": steps.repeat_interleave(len(positions)), "position": positions.repeat(len(steps))}
    with ActivationStore.create(tmp_path, {}) as store:
        for seed in range(n):
            sample = {
                "prompt": 0,
                "seed": seed,
                "thumbnail": torch.zeros(*layout.thumbnail, 3, dtype=torch.uint8),
                "embedding": torch.ones(layout.embedding),
            }
            store.append(sample, torch.randn(len(labels["step"]), 1280), labels)
    on_disk = sum(file.stat().st_size for file in (tmp_path / "shards").glob("*.safetensors"))
    assert on_disk == pytest.approx(n * larger.picture_bytes(layout), rel=0.01)
    tokens = estimate_bytes(n, len(steps), len(positions), 1280)
    assert tokens == n * 5 * 64 * 1280 * 2
    assert 0.8 * on_disk < tokens < on_disk

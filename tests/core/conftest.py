"""Fixtures shared by the tests of the library."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hapax.core.feature_set import FeatureSet
from hapax.core.taps import Step
from torch import Tensor


def _beside(name: str) -> ModuleType:
    """A module beside this file; tests run in importlib mode, where siblings can't be imported by name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_pipelines() -> ModuleType:
    return _beside("tiny_pipelines")


@pytest.fixture
def feature_set() -> FeatureSet:
    """Two features whose numbers are known: see made_features.py."""
    return _beside("made_features").make()


@pytest.fixture(scope="session")
def make_step() -> Callable[..., Step]:
    """Label the rows of activations `h`; progress, cond and sample are one value for all rows or one each."""

    def make(h: Tensor, progress: object = 0.5, cond: object = True, sample: object = None) -> Step:
        rows = len(h)
        along = torch.as_tensor(progress, dtype=torch.float32).expand(rows)
        return Step(
            sigma=1 - along,
            timestep=1000 * (1 - along),
            progress=along,
            cond=torch.as_tensor(cond, dtype=torch.bool).expand(rows),
            sample=torch.arange(rows) if sample is None else torch.as_tensor(sample).expand(rows),
            grid=tuple(h.shape[2:]) if h.ndim == 4 else (1, h.shape[1]),
            x=torch.zeros(rows, 4, 8, 8),
            context=None,
        )

    return make

"""The torchmetrics adapter, where torchmetrics is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hapax.core.sce import schur_complement_entropy

NAMES = ("image", "text", "image_effective", "text_effective")


@pytest.fixture(scope="module")
def Metric() -> Any:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: its adapter is NOT tested")
    from hapax.core.sce.metric import SchurComplementEntropyMetric

    return SchurComplementEntropyMetric


def test_class_is_there_only_with_torchmetrics(monkeypatch: pytest.MonkeyPatch):
    import importlib

    import hapax.core.sce.metric as module

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    spec = importlib.util.spec_from_file_location("hapax.core.sce.metric_alone", module.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert not hasattr(alone, "SchurComplementEntropyMetric")


@pytest.mark.parametrize("options", [{}, {"kernel": "gaussian", "sigma": 3.0, "rff_dim": 25}])
def test_batches_give_the_score(Metric: Any, make_pairs: Callable, options: dict):
    image, text = make_pairs()
    metric = Metric(12, **options)
    for images, texts in zip(image.split(50), text.split(50), strict=True):
        metric.update(images, texts)
    found, expected = metric.compute(), schur_complement_entropy(image, text, **options)
    assert set(found) == set(NAMES)
    for name in NAMES:
        assert found[name].item() == pytest.approx(getattr(expected, name), rel=1e-9)
    metric.reset()
    metric.update(image[:60], text[:60])
    expected = schur_complement_entropy(image[:60], text[:60], **options)
    assert metric.compute()["image"].item() == pytest.approx(expected.image, rel=1e-9)


def test_states_reduce_over_processes_as_torchmetrics_does(Metric: Any, make_pairs: Callable):
    """What `sync` does with two processes' states: sums added, keys joined."""
    image, text = make_pairs()
    metrics = [Metric(12), Metric(12)]
    for metric, rows in zip(metrics, (slice(0, 50), slice(50, 120)), strict=True):
        metric.update(image[rows], text[rows])
    one, other = metrics
    states = [dict(metric.metric_state) for metric in metrics]
    for name, reduce in one._reductions.items():
        values = [state[name] if name != "keys" else torch.cat(state[name]) for state in states]
        setattr(one, name, reduce(torch.stack(values)) if name != "keys" else reduce(values))
    one._computed = None
    expected = schur_complement_entropy(image, text)
    assert one.compute()["image"].item() == pytest.approx(expected.image, rel=1e-9)
    assert other.compute()["image"].item() != pytest.approx(expected.image, rel=1e-3)


def test_it_counts_prompts_once(Metric: Any, make_pairs: Callable):
    image, text = make_pairs()
    metric = Metric(12)
    for _ in range(3):
        metric.update(image, text)
    assert len(metric.keys) == 1
    assert len(metric.keys[0]) == 8

"""The torchmetrics adapter, where torchmetrics is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hapax.core.errors import HapaxError
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


WORKER = """
import json, os, sys
import torch.distributed as dist
from hapax.core.sce.metric import SchurComplementEntropyMetric
from safetensors.torch import load_file

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
pairs = load_file(f"{folder}/pairs.safetensors")
rows = slice(0, 50) if rank == 0 else slice(50, 120)
metric = SchurComplementEntropyMetric(12)
metric.update(pairs["image"][rows], pairs["text"][rows])
found = {name: value.item() for name, value in metric.compute().items()}
# After the sync each process goes on with its own part only.
json.dump([found, int(metric.n)], open(f"{folder}/{rank}.json", "w"))
dist.barrier()
dist.destroy_process_group()
# Gloo's threads now and then abort the interpreter while it is taken down; all files are written and closed.
os._exit(0)
"""


def test_two_processes_compute_the_score_of_all_pairs(Metric: Any, make_pairs: Callable, tmp_path: Path):
    """As torchmetrics syncs them: unequal shares, joined for `compute` and parted again."""
    import json
    import subprocess
    import sys

    from safetensors.torch import save_file

    image, text = make_pairs()
    save_file({"image": image.contiguous(), "text": text.contiguous()}, str(tmp_path / "pairs.safetensors"))
    command = [sys.executable, "-P", "-c", WORKER]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(300) for process in running] == [0, 0]
    expected = schur_complement_entropy(image, text)
    for rank, pairs in enumerate((50, 70)):
        found, n = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == {name: pytest.approx(getattr(expected, name), rel=1e-9) for name in NAMES}
        assert n == pairs


def test_called_on_a_batch_it_scores_that_and_keeps_all(Metric: Any, make_pairs: Callable):
    image, text = make_pairs()
    metric = Metric(12)
    for images, texts in zip(image.split(60), text.split(60), strict=True):
        step = metric(images, texts)
        assert step["image"].item() == pytest.approx(schur_complement_entropy(images, texts).image, rel=1e-9)
    assert metric.compute()["text"].item() == pytest.approx(schur_complement_entropy(image, text).text, rel=1e-9)


def test_it_goes_with_others_through_copies_and_files(Metric: Any, make_pairs: Callable, tmp_path: Path):
    from copy import deepcopy

    from torchmetrics import MetricCollection

    image, text = make_pairs()
    options = {"kernel": "gaussian", "sigma": 3.0, "rff_dim": 25}
    pair = MetricCollection({"cosine": Metric(12), "gaussian": Metric(12, **options)})
    pair.update(image, text)
    found = deepcopy(pair).compute()
    for name, expected in (
        ("cosine", schur_complement_entropy(image, text)),
        ("gaussian", schur_complement_entropy(image, text, **options)),
    ):
        assert found[f"{name}_image"].item() == pytest.approx(expected.image, rel=1e-9)
    one = Metric(12)
    one.persistent(True)
    one.update(image, text)
    again = Metric(12)
    again.persistent(True)
    again.load_state_dict(one.state_dict())
    again.update(image, text)
    assert int(again.n) == 240
    assert again.compute()["image"].item() == pytest.approx(one.compute()["image"].item(), rel=1e-9)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda make, image, text: make(12, ridge=0.0), "ridge is 0.0; give a finite number above 0"),
        (lambda make, image, text: make(12, kernel="gaussian"), "The Gaussian kernel needs sigma"),
        (lambda make, image, text: make(8).update(image, text), "have 12 dimensions, but 8 are expected"),
        (lambda make, image, text: make(12).update(image, text[:3]), "There are 120 images but 3 texts"),
        (lambda make, image, text: make(12).update(0 * image, text), "image has only zeros in row 0"),
        (lambda make, image, text: make(12).compute(), "There are 0 pairs so far"),
        (lambda make, image, text: make(12)(image[:1], text[:1]), "There are 1 pairs so far"),
    ],
)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_in_one_sentence(Metric: Any, make_pairs: Callable, act: Callable, said: str):
    with pytest.raises(HapaxError, match=said) as caught:
        act(Metric, *make_pairs())
    assert "\n" not in str(caught.value)


def test_it_counts_prompts_once(Metric: Any, make_pairs: Callable):
    image, text = make_pairs()
    metric = Metric(12)
    for _ in range(3):
        metric.update(image, text)
    assert len(metric.keys) == 1
    assert len(metric.keys[0]) == 8

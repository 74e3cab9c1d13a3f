"""The whole audit on the embedded model: its numbers, resuming, several processes, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hapax.core.activations import ActivationStore
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.cli import main
from hapax.core.emoji import MODEL_FOLDER, MODEL_INDEX
from hapax.core.feature_file import load_features
from hapax.core.findings import SAESize
from hapax.core.firing import firing
from hapax.core.rarity import pool_activations
from hapax.core.report import load_audit
from hapax.core.sae import load_sae
from hapax.core.statistics import wilson_interval
from hapax.core.steering import Scope
from PIL import Image

pytestmark = pytest.mark.skipif(
    not MODEL_INDEX.exists(), reason="The emoji model's weights are not here: the audit and its model are NOT tested"
)

IMAGES = 120


def command(out: Path, *more: object) -> list[str]:
    prompts = out.parent / "prompts.txt"
    prompts.write_text("a photo of a firefighter\n")
    words = [
        "audit", "--pipeline", MODEL_FOLDER, "--prompts", prompts, "--out", out, "--clip", "hapax-emoji",
        "--images", IMAGES, "--steps", 6, "--guidance", 1.0, "--batch-size", 20, "--device", "cpu",
        "--latents", 384, "--coarse", 128, "--k", 8, "--epochs", 8, *more,
    ]  # fmt: skip
    return [str(word) for word in words]


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", *arguments]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "out"
    assert main(command(folder)) == 0
    return folder


def comparable(folder: Path) -> dict[str, Any]:
    """audit.json without what differs from run to run: times and the command line."""
    audit = json.loads((folder / "audit.json").read_text())
    del audit["created"], audit["provenance"]
    return audit


def same_pictures(one: Path, other: Path) -> None:
    with ActivationStore.open(one / "activations") as a, ActivationStore.open(other / "activations") as b:
        assert [s.identity for s in a.samples] == [s.identity for s in b.samples]
        torch.testing.assert_close(a.tokens().float(), b.tokens().float(), atol=2e-2, rtol=2e-2)


def test_everything_is_written(out: Path) -> None:
    audit = load_audit(out / "audit.json")
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / audit["prompts"][0]["sae"]["path"]).is_file()
    assert len(ActivationStore.open(out / "activations")) == IMAGES


def test_frequencies_can_be_recomputed_from_the_store(out: Path) -> None:
    audit, store = load_audit(out / "audit.json"), ActivationStore.open(out / "activations")
    prompt = audit["prompts"][0]
    sae = load_sae(out / prompt["sae"]["path"])
    pooled = firing(pool_activations(lambda x: sae.encode(x.float()), store.tokens(), how="max"))
    assert prompt["features"]
    for feature in prompt["features"]:
        count = int((pooled[:, feature["latent"]] > 0).sum())
        low, high = wilson_interval(count, IMAGES)
        assert feature["count"] == count
        assert feature["frequency"] == pytest.approx(count / IMAGES)
        assert (feature["frequency_low"], feature["frequency_high"]) == pytest.approx((float(low), float(high)))
        shown = feature["prevalence"]
        assert (shown["n"], shown["rate"]) == (IMAGES, shown["count"] / IMAGES)
        assert shown["rate"] <= 0.15
        assert feature["finding"]
        assert feature["count"] >= 5
        assert feature["distinctiveness_z"] > 3


def test_exemplars_are_the_strongest_pictures_in_order(out: Path) -> None:
    for feature in load_audit(out / "audit.json")["prompts"][0]["features"]:
        strengths = [exemplar["activation"] for exemplar in feature["exemplars"]]
        assert strengths == sorted(strengths, reverse=True)
        assert all((out / exemplar[key]).is_file() for exemplar in feature["exemplars"] for key in ("image", "heatmap"))


def test_its_features_can_be_turned_up_elsewhere(out: Path) -> None:
    (prompt,) = load_audit(out / "audit.json")["prompts"]
    features = load_features(out)
    assert features.prompt == prompt["prompt"]
    for feature, row in zip(features.features, prompt["features"], strict=True):
        assert list(feature.latents) == [row["latent"], *row["group"]]
        assert feature.prevalence == row["prevalence"]
        assert feature.seeds == [exemplar["seed"] for exemplar in row["exemplars"]]
    backend = DiffusersBackend.from_folder(MODEL_FOLDER)
    shown = prompt["features"][0]["amplified"]
    mode = {"add": "amplify", "approach": "approach"}[shown["mode"]]
    tap = features.edit(features.features[0], shown["strength"], mode, Scope(*shown["window"]))
    again = backend.sample(prompt["prompt"], shown["seeds"][:4], {"mid": tap}, output="pil", steps=6, guidance=1.0)
    for picture, path in zip(again, shown["after"], strict=False):
        assert np.abs(np.asarray(picture, int) - np.asarray(Image.open(out / path), int)).max() <= 2


def test_amplified_pictures_use_fresh_seeds(out: Path) -> None:
    audit = load_audit(out / "audit.json")
    amplified = audit["prompts"][0]["features"][0]["amplified"]
    first, last = audit["prompts"][0]["seeds"]
    assert not set(amplified["seeds"]) & set(range(first, last + 1))
    assert len(amplified["before"]) == len(amplified["after"]) == len(amplified["seeds"])


def test_again_needs_resume_and_then_changes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = comparable(out)
    assert main(command(out)) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(command(out, "--resume")) == 0
    assert comparable(out) == before


def test_resume_with_other_settings_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(out, "--resume", "--seed", "7")) == 2
    assert "another seed" in capsys.readouterr().err


def test_killed_and_resumed_is_the_unbroken_audit(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    running = subprocess.Popen(python("hapax.core.cli", *command(folder)), stderr=subprocess.DEVNULL)
    while not (folder / "activations").exists() and running.poll() is None:
        time.sleep(0.05)
    time.sleep(2)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (folder / "audit.json").exists()
    subprocess.run(python("hapax.core.cli", *command(folder, "--resume")), check=True, capture_output=True)
    same_pictures(out, folder)
    assert comparable(folder) == comparable(out)


def test_two_processes_write_the_audit_of_one(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    processes = ["--standalone", "--nproc-per-node", "2"]
    launch = python("torch.distributed.run", *processes, "-m", "hapax.core.cli", *command(folder))
    result = subprocess.run(
        launch, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600
    )
    assert result.returncode == 0, result.stderr
    same_pictures(out, folder)
    one, two = comparable(out), comparable(folder)
    assert not list(folder.glob("activations-*"))
    assert two["model"] == one["model"]
    assert two["settings"] == one["settings"]
    assert two["prompts"][0]["seeds"] == one["prompts"][0]["seeds"]
    assert two["prompts"][0]["features"]


def test_a_damaged_shard_is_made_again(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    shard = next((folder / "activations" / "shards").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 0xFF
    shard.write_bytes(content)
    assert main(command(folder, "--resume")) == 0
    same_pictures(out, folder)


def test_an_autoencoder_that_was_trained_before_can_be_used(out: Path, tmp_path: Path) -> None:
    trained = tmp_path / "sae"
    assert main(["sae", "train", "--store", str(out / "activations"), "--out", str(trained), "--latents", "256"]) == 0
    folder = tmp_path / "out"
    assert main(command(folder, "--sae", trained / "sae.safetensors", "--amplify", 0)) == 0
    shutil.rmtree(trained)
    assert used(folder) == (256, 256)
    # Resumed with another file of the same name, the audit takes that one, and so do its features.
    store = str(out / "activations")
    assert main(["sae", "train", "--store", store, "--out", str(trained), "--latents", "288"]) == 0
    assert main(command(folder, "--sae", trained / "sae.safetensors", "--amplify", 0, "--resume")) == 0
    assert used(folder) == (288, 288)


def used(folder: Path) -> tuple[int, int]:
    """Latents of the autoencoder that audit.json names, and of the one that the features come with."""
    (prompt,) = load_audit(folder / "audit.json")["prompts"]
    return load_sae(folder / prompt["sae"]["path"]).d_sae, load_features(folder).trained.sae.d_sae


def test_an_autoencoder_of_another_site_is_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = out / "sae" / "p0.safetensors"
    assert main(command(tmp_path / "out", "--sae", sae, "--site", "eps")) == 2
    assert "trained for site mid" in capsys.readouterr().err


def test_unknown_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path / "out", "--site", "attic")) == 2
    assert "attic" in capsys.readouterr().err


def test_activations_that_are_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hapax.core.backends.diffusers import DiffusersBackend

    load = DiffusersBackend.from_folder.__func__

    def broken(kind: type[DiffusersBackend], *arguments: Any, **options: Any) -> DiffusersBackend:
        backend = load(kind, *arguments, **options)
        with torch.no_grad():
            backend.denoiser.mid_block.resnets[-1].conv2.bias[0] = float("nan")
        return backend

    monkeypatch.setattr(DiffusersBackend, "from_folder", classmethod(broken))
    assert main(command(tmp_path / "out")) == 2
    assert "not finite" in capsys.readouterr().err


def test_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here")
    try:
        assert main(command(disk / "out")) == 2
        assert "no space left" in capsys.readouterr().err.lower()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_paper_proportions_are_the_default() -> None:
    config = SAESize().config(1280, tokens=16_000_000, seed=0)
    assert config.prefix_sizes == (2048, 20480)
    assert config.batch_size == 4096

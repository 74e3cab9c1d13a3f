"""`hapax directions`: build, look up, describe and compass on a saved tiny pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hapax.core.cli import main
from hapax.core.direction import Direction
from hapax.core.sae import MatryoshkaSAE, save_sae
from PIL import Image


@pytest.fixture(scope="module")
def folder(tiny_pipelines, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("directions")
    tiny_pipelines.build("sd1").save_pretrained(folder / "model")
    (folder / "bank.txt").write_text("a cat\na dog\na cat, sketch\n")
    (folder / "prompts.txt").write_text("a cat\n")
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:60])
    return folder


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in ("directions", *arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)


def test_the_whole_way(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--pipeline", folder / "model", "--steps", 2, "--seeds", 4, "--guidance", 1, "--out", folder / "out")
    assert run("build", *model, "--bank", folder / "bank.txt") == 0
    index = folder / "out/index.safetensors"
    assert f"wrote {index}" in capsys.readouterr().out
    assert run("lookup", "--index", index, "--caption", "a cat, sketch", "--versus", "a cat", "--out", folder) == 0
    assert "+1.000  sketch" in capsys.readouterr().out
    assert Direction.load(folder / "direction.safetensors").meta["label"] == "a cat, sketch - a cat"
    assert run("lookup", "--index", index, "--direction", folder / "direction.safetensors") == 0
    assert "sketch" in capsys.readouterr().out
    sae = MatryoshkaSAE(16, 8, (8,), 2)
    with torch.no_grad():
        sae.W_dec[3] = Direction.load(folder / "direction.safetensors").vector
    for name, site in (("sae", "mid"), ("elsewhere", "double.3")):
        save_sae(sae, folder / f"{name}.safetensors", meta={"site": site})
    assert run("lookup", "--index", index, "--sae", folder / "sae.safetensors", "--latent", 3) == 0
    assert "+1.000  sketch" in capsys.readouterr().out
    picture = ("--pictures", folder / "red.png", "--seeds", 1)
    assert run("describe", "--index", index, "--pipeline", folder / "model", *picture) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("p ")
    assert run("compass", *model, "--prompts", folder / "prompts.txt", "--poles", "{}", "a dog") == 0
    reading = json.loads((folder / "out/compass.json").read_text())[0]
    assert reading["leans"][0]["value"] == pytest.approx(1, abs=1e-3)
    (folder / "words.txt").write_text("sketch\nnight\n")
    behind = ("--bank", folder / "words.txt", "--prompts", folder / "prompts.txt", "--out", folder / "behind")
    assert run("build", *model[:-2], *behind) == 0
    assert "of 3 captions" in capsys.readouterr().out
    built = folder / "behind/index.safetensors"
    assert run("lookup", "--index", built, "--caption", "a cat, night", "--out", folder / "behind") == 0
    assert "a cat, night" in capsys.readouterr().out
    for bad, said in (
        (("lookup", "--index", index, "--caption", "a horse"), "'a horse' is not in the index"),
        (("lookup", "--index", index, "--direction", index), "not a direction"),
        (("lookup", "--index", folder / "bank.txt", "--caption", "x"), "bank.txt is no safetensors"),
        (("lookup", "--index", index, "--caption", "a cat", "--direction", index), "not allowed with"),
        (("lookup", "--index", index, "--sae", folder / "sae.safetensors"), "--latent is None; give one of the"),
        (("lookup", "--index", index, "--sae", folder / "sae.safetensors", "--latent", 8), "from 0 to 7"),
        (("lookup", "--index", index, "--sae", folder / "elsewhere.safetensors", "--latent", 3), "built for site mid"),
        (("lookup", "--index", index, "--direction", index, "--versus", "a cat"), "--versus goes with --caption only"),
        (("build", *model, "--bank", folder / "gone.txt"), "can't be read"),
        (("build", *model, "--device", "nonsense"), "There is no device 'nonsense'"),
        (("compass", *model, "--prompts", folder / "prompts.txt", "--poles", "x"), "at least 2"),
        (("describe", "--index", index, "--pipeline", folder / "model", "--pictures", index), "no picture"),
        (
            ("describe", "--index", index, "--pipeline", folder / "model", "--pictures", folder / "cut.png"),
            "no picture",
        ),
    ):
        assert run(*bad) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "Traceback" not in error

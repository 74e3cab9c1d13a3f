"""The command's manners: help, bad input in one sentence, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hapax.core.cli import main
from hapax.core.emoji import MODEL_FOLDER


def hapax(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "hapax.core.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a failing command says on stderr: one line, exit code 2, no traceback."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    return error


@pytest.fixture
def audit(tmp_path: Path) -> list[object]:
    """A good audit command but for what a test spoils by adding a later flag."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a cat\n")
    return [
        "audit", "--pipeline", MODEL_FOLDER, "--prompts", prompts, "--out", tmp_path / "out",
        "--clip", "hapax-emoji", "--images", 50, "--device", "cpu",
    ]  # fmt: skip


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert {"demo", "audit", "sae"} <= set(capsys.readouterr().out.replace(",", " ").split())


def test_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required" in said(capsys)


def test_module_runs_as_a_program() -> None:
    result = hapax("audit", "--nonsense")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("seed", ["abc", "1.5", ""])
def test_wrong_seed_type(capsys: pytest.CaptureFixture[str], audit: list[object], seed: str) -> None:
    assert "--seed" in said(capsys, *audit, "--seed", seed)


def test_missing_pipeline(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    assert "nowhere" in said(capsys, *audit, "--pipeline", tmp_path / "nowhere")


def test_folder_that_is_no_pipeline(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in said(capsys, *audit, "--pipeline", tmp_path / "empty")


@pytest.mark.parametrize("content", ["", "\n \n", "# only a comment\n"])
def test_empty_prompts(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path, content: str) -> None:
    (tmp_path / "none.txt").write_text(content)
    assert "holds no prompts" in said(capsys, *audit, "--prompts", tmp_path / "none.txt")


def test_missing_prompts(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    assert "can't be read" in said(capsys, *audit, "--prompts", tmp_path / "gone.txt")


def test_prompts_that_are_no_text(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    assert "UTF-8" in said(capsys, *audit, "--prompts", tmp_path / "binary")


def test_repeated_prompts(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    (tmp_path / "twice.txt").write_text("a cat\na cat\n")
    assert "twice" in said(capsys, *audit, "--prompts", tmp_path / "twice.txt")


def test_too_few_images(capsys: pytest.CaptureFixture[str], audit: list[object]) -> None:
    assert "images is 3" in said(capsys, *audit, "--images", 3)


def test_unwritable_out(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "choose another --out" in said(capsys, *audit, "--out", tmp_path / "file" / "out")


def test_clip_weights_that_are_none(capsys: pytest.CaptureFixture[str], audit: list[object], tmp_path: Path) -> None:
    (tmp_path / "clip.safetensors").write_bytes(b"no weights")
    error = said(capsys, *audit, "--clip", "ViT-B-32", "--clip-weights", tmp_path / "clip.safetensors")
    assert "clip.safetensors" in error


def test_clip_without_weights(capsys: pytest.CaptureFixture[str], audit: list[object]) -> None:
    assert "--clip-weights" in said(capsys, *audit, "--clip", "ViT-B-32")


def test_sae_of_no_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"12345678")
    assert "no.safetensors" in said(capsys, "sae", "info", "--sae", tmp_path / "no.safetensors")


def test_store_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "hapax:" in said(capsys, "sae", "train", "--store", tmp_path, "--out", tmp_path / "out")

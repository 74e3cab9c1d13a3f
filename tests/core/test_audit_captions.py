"""What captions add to an audit: names from an index, the bias compass, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.cli import main
from hapax.core.directions import CaptionIndex, compare
from hapax.core.report import load_audit

PROMPTS = ("a cat", "a dog")
POLES = ("--poles", "{}, sketch", "{}, night")


@pytest.fixture(scope="module")
def folder(tiny_pipelines, tmp_path_factory) -> Path:
    """A pipeline, prompts, and an index of that pipeline."""
    folder = tmp_path_factory.mktemp("captions")
    pipeline = tiny_pipelines.build("sd1")
    pipeline.save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "bank.txt").write_text("sketch\nnight\ngold\n")
    backend = DiffusersBackend.from_folder(folder / "pipeline")
    bank = ["a cat", "a cat, sketch", "a cat, night", "a dog", "a dog, gold"]
    CaptionIndex.build(backend, bank, seeds=4, steps=2, guidance=1.0).save(folder / "index.safetensors")
    return folder


def audit(folder: Path, out: str, *more: object) -> int:
    """Run a small audit; its exit code."""
    words = [
        "audit", f"--pipeline={folder / 'pipeline'}", f"--prompts={folder / 'prompts.txt'}", f"--out={folder / out}",
        f"--bank={folder / 'bank.txt'}", "--clip=hapax-emoji", "--device=cpu", "--images=50", "--steps=2",
        "--guidance=1", "--batch-size=25", "--record-steps=2", "--positions=16", "--latents=64", "--coarse=32", "--k=4",
        "--epochs=2", "--amplify=0", *map(str, more),
    ]  # fmt: skip
    return main(words)


def test_an_index_names_and_poles_are_read(folder: Path) -> None:
    out, index = folder / "out", folder / "index.safetensors"
    assert audit(folder, "out", "--index", index, "--compass-seeds", 6, *POLES) == 0
    found = load_audit(out / "audit.json")
    assert found["naming"] == {"by": "index", "captions": 5, "index": str(index.resolve())}
    compass = found["compass"]
    assert (compass["poles"], compass["seeds"], compass["steps"]) == (list(POLES[1:]), 6, 2)
    backend = DiffusersBackend.from_folder(folder / "pipeline")
    options = {"seeds": 6, "steps": 2, "guidance": 1.0, "batch_size": 25}
    for row, reading in zip(compass["prompts"], compare(backend, PROMPTS, POLES[1:], **options), strict=True):
        assert [each["share"] for each in row["shares"]] == pytest.approx(
            [share for share, *_ in reading.shares.values()], abs=0.02
        )
    page = (out / "report.html").read_text("utf-8")
    assert "What plain prompts lean to" in page
    assert "named by an index of 5 captions" in page


def test_without_them_clip_names_by_the_bank(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(folder, "plain") == 0
    found = load_audit(folder / "plain" / "audit.json")
    assert found["naming"] == {"by": "clip", "captions": 3}
    assert found["compass"] is None
    assert {word for p in found["prompts"] for f in p["features"] for word, _ in f["labels"]} <= {
        "sketch",
        "night",
        "gold",
    }
    capsys.readouterr()
    assert audit(folder, "plain", "--resume", *POLES) == 2
    assert "begun with another poles" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--index", "index.safetensors", "--site", "eps"), "The index was built for site mid, but here it is eps"),
        (("--index", "bank.txt"), "bank.txt is no safetensors"),
        (("--poles", "{}, sketch"), "give at least 2"),
        (("--poles", "{}, sketch", "{}, sketch"), "each once"),
        (("--poles", *(f"{{}}, {i}" for i in range(9))), "There are 9 poles; give at most 8"),
        (("--bank", "one.txt"), "The bank has 1 captions to name features with"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    (folder / "one.txt").write_text("alone\n")
    files = [str(folder / word) if word.endswith((".txt", ".safetensors")) else word for word in more]
    assert audit(folder, "bad", *files) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (folder / "bad" / "settings.json").exists()

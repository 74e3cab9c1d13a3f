"""Bad input made from the command's own grammar: each is refused with one sentence, exit code 2, no traceback.

The grammar is walked as argparse holds it, so a command or option that is added later is tried without a change
here. All other options of an audit are good, and what the pipeline is given would run: what is refused is refused
for the one bad value.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hapax.core.cli import build_parser, main
from hapax.core.commands.common import Number, Whole
from hapax.core.embed import ClipEmbedder  # noqa: F401  (so that importing is not a test's time)

Words = tuple[str, ...]
NO_WHOLE_NUMBER = ("abc", "1.5", "", " ", "1e3", "0x10", "--", "3,0", "nan", "1" + 400 * "0" + ".")
NO_NUMBER = ("abc", "", "1,5", "nan", "inf", "-inf", "--", "50%")
# What stands for a good file of each option of an audit; made by `good`.
FILES = {"--pipeline": "pipeline", "--prompts": "prompts.txt"}
AUDIT = {"--clip": "hapax-emoji", "--device": "cpu", "--steps": "2", "--images": "50", "--latents": "64"}


def leaves(parser: argparse.ArgumentParser, path: Words = ()) -> Iterator[tuple[Words, argparse.ArgumentParser]]:
    """All commands with their parsers: (`sae`, `train`) and so on."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, (*path, name))


def bad_numbers(kind: object) -> tuple[str, ...]:
    """Values that an option of this type must refuse."""
    if isinstance(kind, Whole):
        return (*NO_WHOLE_NUMBER, str(kind.least - 1), str(kind.most + 1), str(-(2**70)))
    if isinstance(kind, Number):
        beyond = [bound + sign for bound, sign in ((kind.least, -1), (kind.most, 1)) if math.isfinite(bound)]
        return (*NO_NUMBER, *map(str, beyond))
    return NO_WHOLE_NUMBER if kind is int else NO_NUMBER if kind is float else ()


def bad_values(path: Words, action: argparse.Action) -> Iterator[str]:
    """Values that this option must refuse, whatever else is given."""
    yield from bad_numbers(action.type)
    if action.choices:
        yield from ("nonsense", "", next(iter(action.choices)).upper())
    if getattr(action.type, "__name__", "") in ("Path", "some_path") and "--out" not in action.option_strings:
        yield from ("{gone}", "", "{empty}", "{binary}", "{gone}/" + 300 * "x", "{file}/below", "{pipeline}/unet")
    elif getattr(action.type, "__name__", "") == "some_path":
        yield from ("", " ", "{file}", "{file}/below", "{gone}/" + 300 * "x", "/proc/hapax")
    if path == ("audit",):
        yield from {
            "--site": ("attic", "", "mid:input", "eps:update", "double.0", "mid.1", "MID"),
            "--clip": ("ViT-L-14", "nonsense", ""),
            "--device": ("nonsense", "", "cpu:x", "meta", "cuda:99"),
            "--height": ("7", "33", "1"),
            "--width": ("7", "33", "1"),
            "--k": ("100000",),
            "--coarse": ("64", "1000"),
        }.get(action.option_strings[0], ())


def cases() -> Iterator[tuple[Words, Words]]:
    """(command, the words that spoil it)."""
    yield from (((), words) for words in ((), ("nonsense",), ("",), ("--nonsense",), ("AUDIT",), ("-1",)))
    for path, parser in leaves(build_parser()):
        yield from (
            (path, words) for words in (("--nonsense",), ("one", "too", "many"), ("--seed",), ("",), ("--out",))
        )
        for action in parser._actions:
            # Abbreviations are argparse's; the last of an option given twice counts.
            if action.option_strings and action.nargs != 0:
                flag = action.option_strings[0]
                yield path, (flag,)
                yield from ((path, (f"{flag}={value}",)) for value in bad_values(path, action))
            elif action.option_strings and not isinstance(action, argparse._HelpAction):
                yield path, (f"{action.option_strings[0]}=yes",)
            if action.required and action.option_strings:
                yield path, ("without", action.option_strings[0])


CASES = sorted(set(cases()))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tiny_pipelines) -> Path:
    """A folder with a good pipeline and prompts, and with the files that no command can use."""
    folder = tmp_path_factory.mktemp("good")
    tiny_pipelines.build("sd1").save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("a cat\n")
    (folder / "file").write_text("one line\n")
    (folder / "empty").write_text("")
    (folder / "binary").write_bytes(b"\xff\xfe\x00\x81" * 9)
    return folder


def command(good: Path, out: Path, path: Words, spoil: Words) -> list[str]:
    """A whole command, good but for the words that spoil it."""
    if not path:
        return list(spoil)
    missing = spoil[1] if spoil[:1] == ("without",) else None
    parser = dict(leaves(build_parser()))[path]
    options = {
        action.option_strings[0]: str(good / FILES.get(action.option_strings[0], "file"))
        for action in parser._actions
        if action.required and action.option_strings
    }
    options |= {"--out": str(out)} | (AUDIT if path == ("audit",) else {})
    words = [f"{flag}={value}" for flag, value in options.items() if flag != missing]
    names = {name: str(good / name) for name in ("file", "empty", "binary", "gone", "pipeline")}
    return [*path, *words, *([] if missing else [word.format(**names) for word in spoil])]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; return what it says."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2, words
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("hapax: ")
    assert said.err.endswith(".\n")
    assert said.err.count("\n") == 1, "one line"
    return said.err


def test_there_are_two_hundred() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize(("path", "spoil"), CASES, ids=lambda words: " ".join(words)[:40] or "-")
def test_bad_input_is_one_sentence(
    good: Path, tmp_path: Path, path: Words, spoil: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(good, tmp_path / "out", path, spoil)
    said = refused(words, capsys)
    assert not (tmp_path / "out" / "settings.json").exists(), "refused before anything is claimed"
    if path == ("audit",) and spoil[0] != "without" and "=" in words[-1]:
        flag, value = words[-1].split("=", 1)
        assert flag in said or flag.strip("-") in said.lower() or value in said, said


BROKEN = {
    "no index": lambda folder: (folder / "model_index.json").unlink(),
    "index of nothing": lambda folder: (folder / "model_index.json").write_text("{}"),
    "index cut": lambda folder: cut(folder / "model_index.json"),
    "unet's config cut": lambda folder: cut(folder / "unet" / "config.json"),
    "unet's config gone": lambda folder: (folder / "unet" / "config.json").unlink(),
    "weights cut": lambda folder: cut(folder / "unet" / "diffusion_pytorch_model.safetensors"),
    "weights gone": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
    "weights of nothing": lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b""),
    "autoencoder's weights cut": lambda folder: cut(folder / "vae" / "diffusion_pytorch_model.safetensors"),
    "text encoder's weights cut": lambda folder: cut(folder / "text_encoder" / "model.safetensors"),
    "text encoder gone": lambda folder: remove(folder / "text_encoder"),
    "tokenizer gone": lambda folder: remove(folder / "tokenizer"),
    "vocabulary cut": lambda folder: cut(max((folder / "tokenizer").iterdir(), key=lambda file: file.stat().st_size)),
    "scheduler's config cut": lambda folder: cut(folder / "scheduler" / "scheduler_config.json"),
    "scheduler gone": lambda folder: remove(folder / "scheduler"),
}


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_pipeline_is_one_sentence(
    good: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(good / "pipeline", tmp_path / "pipeline")
    BROKEN[damage](tmp_path / "pipeline")
    said = refused(command(good, tmp_path / "out", ("audit",), (f"--pipeline={tmp_path / 'pipeline'}",)), capsys)
    assert str(tmp_path / "pipeline") in said

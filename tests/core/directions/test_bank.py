"""Banks: every format gives the same captions; what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hapax.core.directions import behind, read_bank
from hapax.core.errors import HapaxError

WRITTEN = {
    "bank.txt": "# a note\na cat\n\n  a dog  \na cat\n",
    "bank.csv": 'file,caption\n1.png,a cat\n2.png," a dog "\n3.png,a cat\n',
    "bank.jsonl": '{"text": "a cat"}\n\n"a dog"\n{"text": "a cat"}\n',
    "text.csv": "\ufefftext\na cat\na dog\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_formats(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(WRITTEN[name], "utf-8")
    assert read_bank(path) == ("a cat", "a dog")


def test_captions_beside_pictures(tmp_path: Path) -> None:
    for name, text in {"b.txt": "a dog", "a.caption": "a\ncat", "notes.txt": "no picture of that name"}.items():
        (tmp_path / name).write_text(text)
    for name in ("a.png", "b.JPG", "c.webp"):
        (tmp_path / name).touch()
    assert read_bank(tmp_path) == ("a cat", "a dog")


def test_the_general_bank_is_large_and_has_no_doubles() -> None:
    bank = read_bank()
    assert len(bank) >= 250
    assert len(set(bank)) == len(bank)


def test_captions_go_behind_prompts() -> None:
    assert behind([], ["a", "b"]) == ("a", "b")
    assert behind(["a cook", "a cat"], ["sketch", "a cat"]) == (
        "a cook",
        "a cook, sketch",
        "a cook, a cat",
        "a cat",
        "a cat, sketch",
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.txt", "# only a note\n", "holds no captions"),
        ("bad.csv", "a,b\n1,2\n", "columns a, b; one must be called caption, text or prompt"),
        ("bad.jsonl", "{\n", "Line 1 .* is not JSON"),
        ("number.jsonl", "3\n", "Line 1 .* has no text"),
        ("field.csv", "caption\n" + "x" * 200_000, "can't be read as CSV .field larger than"),
        ("latin.txt", b"caf\xe9\n", "not UTF-8"),
        ("gone.txt", None, "can't be read"),
    ],
)
def test_bad_banks(tmp_path: Path, name: str, text: str | bytes | None, said: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(HapaxError, match=said):
        read_bank(path)

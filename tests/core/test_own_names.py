"""Labels that people give: kept whole whatever comes, and whoever else writes."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hapax.core.errors import HapaxError
from hapax.core.own_names import LONGEST, NAMES_FILE, load_names, save_name

SCRIPT = "<script>alert(1)</script>\"'&lt;${x}"


def test_a_label_is_kept_and_taken_back(tmp_path):
    assert load_names(tmp_path) == {}
    save_name(tmp_path, "p0-f3", "  night   scene ")
    assert save_name(tmp_path, "p0-f5", "\u591c") == {"p0-f3": "night scene", "p0-f5": "\u591c"}
    assert save_name(tmp_path, "p0-f3", " ") == load_names(tmp_path) == {"p0-f5": "\u591c"}


def test_joined_letters_and_emoji_are_a_label(tmp_path):
    joined = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f692"
    assert save_name(tmp_path, "p0-f3", joined) == {"p0-f3": joined}


def test_script_in_a_label_is_text_like_any_other(tmp_path):
    save_name(tmp_path, "p0-f3", SCRIPT)
    assert load_names(tmp_path) == {"p0-f3": SCRIPT}


@pytest.mark.parametrize(
    ("feature", "name"),
    [
        ("p0-f3", "x" * (LONGEST + 1)),
        ("p0-f3", "a\x00b"),
        ("p0-f3", "turned \u202e round"),
        ("p0-f3", "half \ud800"),
        ("../x", "name"),
        ("", "name"),
        ("p0-f3", None),
        ("p0-f3", ["x"]),
        (7, "name"),
    ],
)
def test_what_is_no_label_is_refused_and_changes_nothing(tmp_path, feature, name):
    save_name(tmp_path, "p0-f1", "kept")
    with pytest.raises(HapaxError):
        save_name(tmp_path, feature, name)
    assert load_names(tmp_path) == {"p0-f1": "kept"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"version": 2, "labels": {}}',
        b'{"version": 1, "labels": []}',
        b'{"version": 1, "labels": {"../x": "a"}}',
        b'{"version": 1, "labels": {"a": 7}}',
        json.dumps({"version": 1, "labels": {"a": "x" * 121}}).encode(),
        b"[" * 100_000,
        b" " * (4 * 1024 * 1024 + 1),
    ],
    ids=["empty", "list", "bytes", "newer", "no object", "bad id", "number", "long", "deep", "huge"],
)
def test_a_file_that_is_no_file_of_labels_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / NAMES_FILE).write_bytes(content)
    for attempt in (lambda: load_names(tmp_path), lambda: save_name(tmp_path, "p0-f1", "a")):
        with pytest.raises(HapaxError, match="delete it to start anew"):
            attempt()
    assert (tmp_path / NAMES_FILE).read_bytes() == content


def test_threads_lose_no_label(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: save_name(tmp_path, f"p0-f{i}", f"name {i}"), range(64)))
    assert load_names(tmp_path) == {f"p0-f{i}": f"name {i}" for i in range(64)}


def test_processes_lose_no_label(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hapax.core.own_names import save_name\n"
        "for i in range(12): save_name(Path(sys.argv[1]), f'p{sys.argv[2]}-f{i}', 'x')"
    )
    running = [subprocess.Popen([sys.executable, "-P", "-c", code, str(tmp_path), str(i)]) for i in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert len(load_names(tmp_path)) == 36

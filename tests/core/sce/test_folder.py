"""Pictures and prompts matched from files, and the command that scores them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hapax.core.cli import main
from hapax.core.errors import HapaxError
from hapax.core.sce.folder import pair
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small pictures, 1.png to 12.png, all different."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(1, 13):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(pictures / f"{i}.png")
    return pictures


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_lines_go_with_pictures_in_natural_order(folder: Path, tmp_path: Path):
    found = pair(folder, write(tmp_path / "prompts.txt", *(f"prompt {i}" for i in range(1, 13))))
    assert found.names == [f"{i}.png" for i in range(1, 13)]
    assert found.prompts == [f"prompt {i}" for i in range(1, 13)]
    assert found.matched_by == "order"


def test_one_line_is_the_prompt_of_all(folder: Path, tmp_path: Path):
    found = pair(folder, write(tmp_path / "prompts.txt", "a cat"))
    assert found.prompts == ["a cat"] * 12
    assert found.matched_by == "one prompt for all"


def test_texts_beside_pictures(folder: Path, tmp_path: Path):
    for i in range(1, 12):
        write(folder / f"{i}.txt", f"  prompt {i}, ", "second line ")
    write(folder / "99.txt", "of no picture")
    for given in (None, folder):
        found = pair(folder, given)
        assert found.matched_by == "name"
        assert dict(zip(found.names, found.prompts, strict=True))["10.png"] == "prompt 10, second line"
        assert found.without_prompt == ["12.png"]
        assert found.without_picture == ["99.txt"]
    write(tmp_path / "apart" / "3.txt", "kept elsewhere")
    assert pair(folder, tmp_path / "apart").names == ["3.png"]


def test_names_in_jsonl_beat_the_order(folder: Path, tmp_path: Path):
    rows = [{"file_name": f"{i}.png", "prompt": f"prompt {i}"} for i in (12, 3, 7)]
    found = pair(folder, write(tmp_path / "a.jsonl", *rows, {"file_name": "gone.png", "prompt": "x"}))
    assert dict(zip(found.names, found.prompts, strict=True)) == {f"{i}.png": f"prompt {i}" for i in (3, 7, 12)}
    assert len(found.without_prompt) == 9
    assert found.without_picture == ["gone.png"]


def test_jsonl_without_names_goes_by_order(folder: Path, tmp_path: Path):
    found = pair(folder, write(tmp_path / "a.jsonl", *({"caption": f"prompt {i}"} for i in range(1, 13))))
    assert (found.prompts[9], found.matched_by) == ("prompt 10", "order")


def test_pictures_in_folders_are_named_with_them(folder: Path, tmp_path: Path):
    (folder / "deep").mkdir()
    (folder / "1.png").rename(folder / "deep" / "1.png")
    (folder / "2.png").rename(folder / "deep" / "a.png")
    Image.open(folder / "3.png").save(folder / "deep" / "3.png")
    rows = [{"path": "./deep/1.png", "text": "one"}, {"path": "a.png", "text": "two"}, {"path": "3.png", "text": "top"}]
    found = pair(folder, write(tmp_path / "a.jsonl", *rows))
    assert dict(zip(found.names, found.prompts, strict=True)) == {
        "deep/1.png": "one",
        "deep/a.png": "two",
        "3.png": "top",
    }


def test_a_bare_name_never_takes_a_picture_that_has_its_own_row(folder: Path, tmp_path: Path):
    (folder / "deep").mkdir()
    (folder / "1.png").rename(folder / "deep" / "a.png")
    own, bare = {"path": "deep/a.png", "text": "one"}, {"path": "a.png", "text": "another"}
    for rows in ([own, bare], [bare, own]):
        with pytest.raises(HapaxError, match=r"two prompts for deep/a\.png; give each picture one"):
            pair(folder, write(tmp_path / "a.jsonl", *rows))
    same = pair(folder, write(tmp_path / "a.jsonl", own, {**bare, "text": "one"}))
    assert (same.names, same.prompts) == (["deep/a.png"], ["one"])


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("p.txt", ["a", "b"], "has 2 prompts, but there are 12 pictures; give one line a picture"),
        ("p.txt", [], "holds no prompts"),
        ("p.jsonl", ["no json"], "has no JSON in line 1"),
        ("p.jsonl", [{"file_name": "1.png"}], "has no prompt in line 1"),
        ("p.jsonl", ["[1]"], "has no prompt in line 1"),
        ("p.jsonl", [{"file_name": "1.png", "text": "a"}, {"text": "b"}], "has no file_name in its prompt 2"),
        ("p.jsonl", [{"file": "1.png", "text": "a"}, {"file": "1.png", "text": "b"}], "two prompts for 1.png"),
        ("p.jsonl", [{"file": "x.png", "text": "a"}], "None of the 1 names in"),
        ("p.jsonl", [{"file": "sub/1.png", "text": "a"}, {"file": "x/1.png", "text": "b"}], "None of the 2 names in"),
    ],
)
def test_prompts_that_cannot_be_matched(folder: Path, tmp_path: Path, name: str, lines: list, said: str):
    with pytest.raises(HapaxError, match=said):
        pair(folder, write(tmp_path / name, *lines))


def test_folders_that_are_none(folder: Path, tmp_path: Path):
    with pytest.raises(HapaxError, match="There is no folder"):
        pair(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HapaxError, match="There are no pictures"):
        pair(tmp_path / "empty")
    with pytest.raises(HapaxError, match="None of the 12 pictures"):
        pair(folder)
    with pytest.raises(HapaxError, match=r"can't be read from .*gone\.txt"):
        pair(folder, tmp_path / "gone.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(HapaxError, match="it is not UTF-8 text"):
        pair(folder, tmp_path / "binary.txt")


def test_command_scores_a_folder_and_lists_what_it_cannot_read(folder: Path, tmp_path: Path, capsys):
    (folder / "13.png").write_bytes(b"no picture")
    (folder / "14.png").write_bytes((folder / "1.png").read_bytes()[:200])
    (folder / "15.heic").write_bytes(b"a format that Pillow may not know")
    (folder / "16.png").mkdir()
    rows = [{"file_name": f"{i}.png", "prompt": f"a photo of a {'cat' if i % 2 else 'cook'}"} for i in range(1, 17)]
    rows[14]["file_name"] = "15.heic"
    prompts, out = write(tmp_path / "p.jsonl", *rows), tmp_path / "out"
    command = ["sce", "--images", folder, "--prompts", prompts, "--out", out, "--modes", 2]
    assert main([str(word) for word in command]) == 0
    said = capsys.readouterr()
    assert "4 could not be read:" in said.out
    assert "embedding" in said.err
    found = json.loads((out / "sce.json").read_text("utf-8"))
    assert [row["file"] for row in found["unreadable"]] == ["13.png", "14.png", "15.heic", "16.png"]
    assert all(row["reason"] for row in found["unreadable"])
    assert (found["score"]["n"], found["score"]["unique_texts"]) == (12, 2)
    assert found["score"]["image_interval"] is None
    assert len(found["modes"]) == 2
    assert Image.open(out / "modes.png").width > 500
    assert found["settings"]["clip"]["name"] == "hapax-emoji"
    assert "note: hapax-emoji was trained on emoji only; for other pictures give --clip" in said.out

    assert main([*map(str, command), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["score"] == found["score"]


def test_command_agrees_with_the_library(folder: Path, tmp_path: Path):
    from hapax.core.emoji import load_clip
    from hapax.core.sce import schur_complement_entropy

    prompts = ["a photo of a cat", "a photo of a cook"] * 6
    options = ["--kernel", "gaussian", "--sigma", "0.7", "--ridge", "0.01", "--frequencies", "20", "--seed", "3"]
    command = ["sce", "--images", folder, "--prompts", write(tmp_path / "p.txt", *prompts), "--out", tmp_path / "out"]
    assert main([str(word) for word in [*command, *options, "--modes", 0]]) == 0
    found = json.loads((tmp_path / "out" / "sce.json").read_text("utf-8"))["score"]
    assert not (tmp_path / "out" / "modes.png").exists()
    import torch

    clip = load_clip()
    image = clip.images([Image.open(folder / f"{i}.png") for i in range(1, 13)])
    text = clip.texts(prompts[:2]).repeat(6, 1)
    expected = schur_complement_entropy(
        image,
        text,
        kernel="gaussian",
        sigma=0.7,
        ridge=0.01,
        rff_dim=20,
        generator=torch.Generator().manual_seed(3),
    )
    assert found["image"] == pytest.approx(expected.image, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clip", "ViT-B-32"], "No weights were given for the CLIP model ViT-B-32"),
        (["--device", "nonsense"], "There is no device 'nonsense'"),
        (["--kernel", "gaussian"], "needs sigma"),
        (["--ridge", "0"], "ridge is 0"),
        (["--folds", "40"], "blocks can't be made of 12 pairs"),
    ],
)
def test_bad_settings_in_one_sentence(folder: Path, tmp_path: Path, capsys, options: list[str], said: str):
    prompts = write(tmp_path / "p.txt", "a cat")
    command = ["sce", "--images", folder, "--prompts", prompts, "--out", tmp_path / "out", *options]
    assert main([str(word) for word in command]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hapax: ")
    assert said in error


def test_nothing_readable(tmp_path: Path, capsys):
    pictures = tmp_path / "pictures"
    write(pictures / "a.png", "no picture")
    prompts = write(tmp_path / "p.txt", "a cat")
    assert main(["sce", "--images", str(pictures), "--prompts", str(prompts), "--out", str(tmp_path / "out")]) == 2
    assert "None of the 1 pictures in" in capsys.readouterr().err

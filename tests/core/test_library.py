"""The audits of a folder, by ids only: whatever is asked for, nothing outside of the folder is read."""

from __future__ import annotations

import io
import json
import os

import pytest
from hapax.core.errors import HapaxError
from hapax.core.feature_audit import write_feature_audit
from hapax.core.library import EDGES, FEATURES, MOST_BYTES, Library, NotThere, content_hash
from hapax.core.own_names import save_name
from PIL import Image


@pytest.fixture
def made(feature_set, tmp_path):
    """`made("name")` writes an audit and returns its folder."""

    def write(name, age=0):
        folder = tmp_path / "base" / name
        folder.mkdir(parents=True)
        write_feature_audit(feature_set, folder, model_name=f"model {name}", provenance={"reproduce": "Again."})
        (folder / FEATURES).write_bytes(b"features")
        os.utime(folder / "audit.json", (1e9 - age, 1e9 - age))
        return folder

    return write


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path / "base")


def changed(folder, change):
    path = folder / "audit.json"
    audit = json.loads(path.read_text("utf-8"))
    change(audit)
    path.write_text(json.dumps(audit), "utf-8")


def test_newest_first_with_what_is_in_them(made, library):
    made("old", age=100)
    made("deep/er/new")
    rows = library.rows()
    assert [row["name"] for row in rows] == ["deep/er/new", "old"]
    assert rows[1]["model"] == "model old"
    assert (rows[1]["prompts"], rows[1]["features"], rows[1]["findings"]) == (["a photo of a cook"], 2, 2)
    assert len({row["id"] for row in rows}) == 2


def test_no_folder_is_no_audits(library):
    assert library.rows() == []


def test_a_broken_audit_is_listed_with_its_sentence_and_hides_no_other(made, library):
    made("good")
    changed(made("bad"), lambda audit: audit.update(prompts=7))
    (made("huge") / "audit.json").write_bytes(b" " * (MOST_BYTES + 1))
    problems = {row["name"]: row.get("problem") for row in library.rows()}
    assert problems["good"] is None
    assert "prompts" in problems["bad"]
    assert "at most" in problems["huge"]


def test_the_view_has_numbers_and_no_path(made, library):
    made("one")
    view = library.view(library.rows()[0]["id"])
    first = view["features"][0]
    assert (first["id"], first["rank"], first["count"], first["label"]) == ("p0-f3", 1, 6, "line sketch")
    assert all(isinstance(n, int) for shot in first["exemplars"] for n in shot[2:])
    assert view["usable"] is True
    (library.base / "one" / FEATURES).unlink()
    assert library.view(view["id"])["usable"] is False
    assert ".png" not in json.dumps(view)


@pytest.mark.parametrize(
    ("mode", "window", "strength", "push"),
    [
        ("add", [0.0, 0.75], 2.0, None),
        ("add", [0.0, 1.0], None, {"mode": "amplify", "strength": 2.0, "start_percent": 0.0, "end_percent": 1.0}),
        ("approach", [0, 0.75], None, {"mode": "approach", "strength": 2.0, "start_percent": 0, "end_percent": 0.75}),
    ],
)
def test_what_turned_a_feature_up_is_told_as_a_node_takes_it(made, library, mode, window, strength, push):
    pictures = {"seeds": [], "before": [], "after": []}
    change = {"strength": 2.0, "window": window, "mode": mode, **pictures}
    changed(made("one"), lambda audit: audit["prompts"][0]["features"][0].update(amplified=change))
    first, second = library.view(library.rows()[0]["id"])["features"]
    assert (first["strength"], first["push"]) == (strength, push)
    assert (second["strength"], second["push"]) == (None, None)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (None, {}),
        (["x"], {}),
        ({"sampler": 7, "steps": "<b>", "size": [1]}, {}),
        ({"sampler": "euler", "steps": 9, "cfg": 1.5, "size": [64, 96], "evil": "x"}, None),
    ],
)
def test_how_it_was_sampled_is_told_as_far_as_it_makes_sense(made, library, told, kept):
    changed(made("one"), lambda audit: audit["settings"].update(sampling=told))
    kept = {key: told[key] for key in ("sampler", "steps", "cfg", "size")} if kept is None else kept
    assert library.view(library.rows()[0]["id"])["sampling"] == kept


def test_labels_are_read_fresh_and_a_broken_file_is_told(made, library):
    folder = made("one")
    audit = library.rows()[0]["id"]
    save_name(folder, "p0-f3", "mine")
    assert library.view(audit)["names"] == {"p0-f3": "mine"}
    (folder / "labels.json").write_text("{")
    assert library.view(audit)["names"] == {}
    assert "not a file of labels" in library.view(audit)["problem"]


def test_a_picture_comes_by_its_number_and_is_encoded_anew(made, library):
    folder = made("one")
    view = library.view(library.rows()[0]["id"])
    number = view["features"][0]["exemplars"][0][2]
    payload, mime = library.picture(view["id"], view["version"], number, EDGES[0])
    name = json.loads((folder / "audit.json").read_text())["prompts"][0]["features"][0]["exemplars"][0]["image"]
    with Image.open(folder / name) as there, Image.open(io.BytesIO(payload)) as here:
        assert mime == "image/png"
        assert here.convert("RGB").tobytes() == there.convert("RGB").tobytes()


def test_large_pictures_come_small_and_without_what_they_carry(made, library):
    folder = made("one")
    view = library.view(library.rows()[0]["id"])
    name = json.loads((folder / "audit.json").read_text())["prompts"][0]["features"][0]["exemplars"][0]["image"]
    picture = Image.new("RGB", (1500, 900), "red")
    picture.info["workflow"] = "secret"
    picture.save(folder / name, "PNG")
    number = view["features"][0]["exemplars"][0][2]
    for edge in EDGES:
        payload, mime = library.picture(view["id"], view["version"], number, edge)
        with Image.open(io.BytesIO(payload)) as here:
            assert (max(here.size), mime) == (edge, "image/webp")
        assert b"secret" not in payload


@pytest.mark.parametrize("audit", ["", "..", "../base", "one", "/etc", "0" * 16, "a\x00b", "\ud800"])
def test_an_id_is_no_path(made, library, audit):
    made("one")
    for ask in (lambda: library.view(audit), lambda: library.picture(audit, "v", 0, EDGES[0])):
        with pytest.raises(NotThere):
            ask()


def test_numbers_versions_and_edges_that_are_not_offered(made, library):
    folder = made("one")
    view = library.view(library.rows()[0]["id"])
    for number in (-1, 10**6):
        with pytest.raises(NotThere, match="none of number"):
            library.picture(view["id"], view["version"], number, EDGES[0])
    with pytest.raises(HapaxError, match="ask for one of"):
        library.picture(view["id"], view["version"], 0, 7)
    changed(folder, lambda audit: audit["model"].update(name="other"))
    with pytest.raises(NotThere, match="written anew"):
        library.picture(view["id"], view["version"], 0, EDGES[0])


def test_links_out_of_the_folder_are_not_followed(made, library, tmp_path):
    outside = tmp_path / "outside"
    made("one").rename(outside)
    (tmp_path / "base" / "linked").symlink_to(outside, target_is_directory=True)
    (tmp_path / "base" / "inner").mkdir()
    (tmp_path / "base" / "inner" / "audit.json").symlink_to(outside / "audit.json")
    assert library.rows() == []


def test_a_linked_picture_and_one_that_is_none_are_refused(made, library, tmp_path):
    folder = made("one")
    view = library.view(library.rows()[0]["id"])
    names = json.loads((folder / "audit.json").read_text())["prompts"][0]["features"][0]["exemplars"]
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    (folder / names[0]["image"]).unlink()
    (folder / names[0]["image"]).symlink_to(secret)
    (folder / names[1]["image"]).write_bytes(b"<svg onload=alert(1)>")
    (folder / names[2]["image"]).unlink()
    shots = view["features"][0]["exemplars"]
    for place, said in ((0, "leads out"), (1, "can't be read"), (2, "there is none")):
        with pytest.raises(HapaxError, match=said):
            library.picture(view["id"], view["version"], shots[place][2], EDGES[0])


def test_a_hostile_audit_names_no_file_outside(made, library):
    folder = made("one")
    for path in ("../../secret.png", "/etc/passwd", "C:\\x.png", "images/../../x.png"):
        changed(folder, lambda audit, path=path: audit["prompts"][0]["features"][0]["exemplars"][0].update(image=path))
        assert "picture's path" in library.rows()[0]["problem"]


def test_script_in_texts_stays_text(made, library):
    script = "</script><script>alert(1)</script>"
    changed(made("one"), lambda audit: audit["prompts"][0].update(prompt=script))
    assert library.view(library.rows()[0]["id"])["prompts"][0]["prompt"] == script


def test_a_file_is_known_by_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert content_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(HapaxError, match="can't be read"):
        content_hash(tmp_path / "b")

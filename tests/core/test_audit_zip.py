"""An audit in a zip: what goes out comes back, and what a stranger packed is looked at first."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hapax.core import audit_zip
from hapax.core.audit_zip import export_zip, import_zip
from hapax.core.errors import HapaxError
from hapax.core.feature_audit import write_feature_audit
from hapax.core.library import FEATURES, features_file
from hapax.core.own_names import load_names, save_name


@pytest.fixture
def folder(feature_set, tmp_path):
    made = tmp_path / "mine"
    made.mkdir()
    write_feature_audit(feature_set, made, provenance={"reproduce": "Again."}, files={"workflow.json": b"{}"})
    return made


@pytest.fixture
def packed(folder, tmp_path):
    export_zip(folder, tmp_path / "mine.zip")
    return tmp_path / "mine.zip"


@pytest.fixture
def base(tmp_path):
    return tmp_path / "base"


def repacked(packed, change):
    """The zip again, after `change(files)` on {name or ZipInfo: bytes}."""
    with zipfile.ZipFile(packed) as source:
        files = {entry.filename: source.read(entry) for entry in source.infolist()}
    change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    packed.write_bytes(buffer.getvalue())
    return packed


def refused(packed, base, said):
    with pytest.raises(HapaxError, match=said):
        import_zip(packed, base, "theirs")
    # Nothing is left behind, here or beside.
    assert list(base.iterdir()) == []
    assert {path.name for path in base.parent.iterdir()} <= {"mine", "mine.zip", "base"}


def test_there_and_back(folder, packed, base):
    save_name(folder, "p0-f3", "mine")
    shutil.copy(folder / FEATURES, folder / features_file(1))
    export_zip(folder, packed)
    new = import_zip(packed, base, "theirs.hapax.zip")
    assert new == base / "theirs"
    kept = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    kept.pop("report.html")
    kept.pop("lock")
    come = {path.relative_to(new).as_posix(): path for path in new.rglob("*") if path.is_file()}
    assert come.keys() == kept.keys()
    assert all(come[name].read_bytes() == kept[name].read_bytes() for name in kept)
    assert load_names(new) == {"p0-f3": "mine"}


@pytest.mark.parametrize("name", ["", "..", "../../x", "/etc", "con", "a/b\\c", "<b>", ".zip"])
def test_the_new_folder_lies_in_the_base(packed, base, name):
    new = import_zip(packed, base, name)
    assert new.parent == base
    assert new.name.strip(".")


def test_two_at_once_get_two_folders(packed, base):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: import_zip(packed, base, "same"), range(4)))
    assert {folder.name for folder in folders} == {"same", "same-2", "same-3", "same-4"}


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "images/../../evil.png",
        "/images/evil.png",
        "C:/evil.png",
        "images\\..\\..\\evil.png",
        "images//evil.png",
        "images/./evil.png",
        "images/a\x01.png",
        "images/con.png",
        "images/x.png.",
        "images/a/b/c/d.png",
        "report.html",
        "evil.py",
        "images/evil.html",
        "images/evil.svg",
        "sae/evil.pt",
        "__init__.py",
        "audit.json/x.png",
        "features-0.safetensors",
        "features-2.safetensors.json",
        "features-../2.safetensors",
    ],
)
def test_names_that_no_export_holds(packed, base, name):
    refused(repacked(packed, lambda files: files.update({name: b"x"})), base, "which no audit has")


def test_a_name_cut_at_a_nul(packed, base):
    repacked(packed, lambda files: files.update({"images/abcd.png": b"x"}))
    packed.write_bytes(packed.read_bytes().replace(b"images/abcd.png", b"images/a\0cd.png"))
    refused(packed, base, "which no audit has|damaged")


def test_a_link_is_refused(packed, base):
    def link(files):
        entry = zipfile.ZipInfo("images/link.png")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        files[entry] = b"/etc/passwd"

    refused(repacked(packed, link), base, "is a link")


def test_the_same_name_twice(packed, base):
    refused(repacked(packed, lambda files: files.update({"AUDIT.json": b"{}"})), base, "which no audit has|twice")
    refused(
        repacked(packed, lambda files: (files.pop("AUDIT.json"), files.update({"images/S0.png": b""}))), base, "twice"
    )


def test_bombs(packed, base):
    refused(repacked(packed, lambda files: files.update({"images/big.png": bytes(30 << 20)})), base, "would grow")


def test_one_that_lies_about_its_size(packed, base):
    repacked(packed, lambda files: files.update({"images/lie.png": bytes(900_000)}))
    with zipfile.ZipFile(packed) as made:
        entry = made.getinfo("images/lie.png")
    data = bytearray(packed.read_bytes())
    for place in (entry.header_offset + 22, data.rindex(b"images/lie.png") - 46 + 24):
        data[place : place + 4] = struct.pack("<I", 10)
    packed.write_bytes(data)
    refused(packed, base, "damaged|larger than the zip says")


@pytest.mark.parametrize(
    ("limit", "said"), [("MOST_FILES", "files"), ("MOST_BYTES", "unpack to"), ("MOST_JSON", "at most")]
)
def test_limits(packed, base, monkeypatch, limit, said):
    monkeypatch.setattr(audit_zip, limit, 3)
    refused(packed, base, said)


def test_a_directory_that_would_fill_the_memory(packed, base):
    data = bytearray(packed.read_bytes())
    data[-10:-6] = struct.pack("<I", 0x7FFFFFFF)
    packed.write_bytes(data)
    refused(packed, base, "lists more files")


@pytest.mark.parametrize("cut", [0, 10, 1000, -30, -1])
def test_half_a_zip(packed, base, cut):
    packed.write_bytes(packed.read_bytes()[:cut])
    refused(packed, base, "not a zip")


def test_a_flipped_byte(packed, base):
    data = bytearray(packed.read_bytes())
    data[data.index(b"\x89PNG") + 40] ^= 0xFF
    packed.write_bytes(data)
    refused(packed, base, "damaged")


def test_a_password(packed, base):
    data = bytearray(packed.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    packed.write_bytes(data)
    refused(packed, base, "encrypted")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.update({"audit.json": json.dumps({"schema_version": "9.0"}).encode()}), "schema_version"),
        (lambda files: files.update({"labels.json": b"["}), "not a file of labels|is not"),
        (lambda files: files.pop("audit.json"), "no audit.json"),
    ],
)
def test_no_audit_or_a_wrong_one(packed, base, change, said):
    refused(repacked(packed, change), base, said)


def test_links_and_strangers_in_a_folder_are_not_exported(folder, tmp_path):
    (folder / "images" / "secret.png").symlink_to("/etc/hostname")
    (folder / "activations").mkdir()
    (folder / "activations" / "shard.safetensors").write_bytes(b"x")
    export_zip(folder, tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as made:
        names = made.namelist()
    assert "images/secret.png" not in names
    assert not [name for name in names if name.startswith(("activations", "report", "lock"))]

"""Where files lie: `models/hapax` for what is kept and shared, `output/hapax` for what a run writes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import folder_paths

from ..core.errors import HapaxError
from .content import has_content

FOLDER = "hapax"
NOTHING = "(nothing here yet)"
_EXTENSION = ".safetensors"


def register() -> None:
    """Make ComfyUI know `models/hapax` and that it holds safetensors only; again changes nothing."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(_EXTENSION)


def model_files(kind: str = "") -> list[str]:
    """The names of the files in `models/hapax/<kind>`, as a combo offers them; never empty."""
    register()
    inside = f"{kind}{os.sep}" if kind else ""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.startswith(inside)]
    return names or [NOTHING]


def model_file(name: str, content: str = "") -> Path:
    """The path of a file in `models/hapax` by the name that `model_files` gave.

    Args:
        name: the file's, with the folder in which others of its kind are.
        content: its SHA-256; where the name stands for another file, or for none, any of that kind with it is taken.

    Raises:
        HapaxError: there is no such file there.
    """
    register()
    named, kind = _full_path(name), name.replace("\\", "/").rpartition("/")[0].partition("/")[0]
    # The file may have another name here: its content is what counts.
    others = [path for path in map(_full_path, model_files(kind)) if path] if content.strip() else []
    for path in [*([named] if named else []), *others]:
        if has_content(path, content):
            return path
    if named:
        raise HapaxError(
            f"The file {name!r} in ComfyUI's models/{FOLDER} is another than this workflow was made with (SHA-256 "
            f"{content.strip()[:12]}...); put that one into models/{FOLDER}/{kind}, under any name, or empty `content` "
            "to take what is there."
        )
    raise HapaxError(
        f"There is no file {name!r} in ComfyUI's models/{FOLDER}; put a .safetensors file there "
        "(or save one from Hapax), press R to refresh, and choose it."
    )


def _full_path(name: str) -> Path | None:
    path = None if name == NOTHING else folder_paths.get_full_path(FOLDER, name)
    return None if path is None or Path(path).suffix != _EXTENSION else Path(path)


def valid(find: Callable[..., object], name: str | None, content: str | None = "") -> bool | str:
    """What a node's `validate_inputs` says of a name that `find` looks up: True, or the sentence that `find` raises.

    A node that asks this is red before anything runs, and names what to do, where ComfyUI would list what there is.
    None is what comes over a wire and isn't known yet.
    """
    try:
        return name is None or content is None or bool(find(name, content) if content else find(name))
    except HapaxError as error:
        return str(error)


def fingerprint(name: str, content: str = "") -> str:
    """Say which version of which file `model_file` finds: its path, time and size; empty where there is none."""
    try:
        path = model_file(name, content)
    except HapaxError:
        return ""
    state = path.stat()
    return f"{path} {state.st_mtime_ns} {state.st_size}"


def name_of(path: Path) -> str:
    """The name of a file in `models/hapax`, as `model_files` lists it."""
    return str(path.relative_to(folder_paths.get_folder_paths(FOLDER)[0]))


def new_model_file(name: str, kind: str = "") -> Path:
    """Where to save `name` in `models/hapax/<kind>`; an existing file of that name is replaced.

    Raises:
        HapaxError: the name leads out of the folder, or is empty.
    """
    register()
    base = Path(folder_paths.get_folder_paths(FOLDER)[0], kind)
    path = _inside(base, name)
    path = path if path.suffix == _EXTENSION else path.with_name(path.name + _EXTENSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def input_files(suffixes: Sequence[str]) -> list[str]:
    """The names of the files of these kinds in ComfyUI's input folder, folders in it included."""
    base = Path(folder_paths.get_input_directory())
    return sorted(path.relative_to(base).as_posix() for path in base.rglob("*") if path.suffix.lower() in suffixes)


def input_file(name: str) -> Path:
    """The path of a file in ComfyUI's input folder.

    Raises:
        HapaxError: the name leads out of the folder, or there is no such file.
    """
    path = _inside(Path(folder_paths.get_input_directory()), name)
    if not path.is_file():
        raise HapaxError(f"There is no file {name!r} in ComfyUI's input folder; put it there and press R to refresh.")
    return path


def output_folder(name: str) -> Path:
    """The folder `output/hapax/<name>`, made when it is missing.

    Raises:
        HapaxError: the name leads out of the folder, or is empty.
    """
    folder = _inside(Path(folder_paths.get_output_directory(), FOLDER), name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settings_folder(run: str, settings: Mapping[str, Any]) -> Path:
    """The folder `output/hapax/<run>-<settings>`: things made with other settings have folders of their own.

    Raises:
        HapaxError: the name leads out of the folder, or is empty.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=list).encode()).hexdigest()[:8]
    return output_folder(f"{run}-{digest}")


def output_folders(marker: str) -> list[str]:
    """The names of the folders under `output/hapax` that hold a file called `marker`; never empty."""
    base = Path(folder_paths.get_output_directory(), FOLDER)
    found = sorted(path.parent.relative_to(base).as_posix() for path in base.glob(f"**/{marker}"))
    return found or [NOTHING]


def existing_output_folder(name: str) -> Path:
    """The folder that `output_folders` listed under a name.

    Raises:
        HapaxError: there is none.
    """
    folder = None if name == NOTHING else _inside(Path(folder_paths.get_output_directory(), FOLDER), name)
    if folder is None or not folder.is_dir():
        raise HapaxError(
            f"There is no recording {name!r} in ComfyUI's output/{FOLDER}; run Harvest Activations, press R to "
            "refresh, and choose it."
        )
    return folder


def output_state(name: str) -> str:
    """Say which version of a folder in `output/hapax` a name stands for: its files with their times."""
    try:
        folder = existing_output_folder(name)
    except HapaxError:
        return ""
    return " ".join(sorted(f"{path.name}:{path.stat().st_mtime_ns}" for path in folder.rglob("*") if path.is_file()))


def _inside(base: Path, name: str) -> Path:
    """Join a name from a workflow to a folder, refusing what leads elsewhere."""
    clean = name.strip().replace("\\", "/")
    parts = clean.split("/")
    bad = [part for part in parts if part in ("", ".", "..") or re.search(r'[<>:"|?*\x00-\x1f]', part)]
    path = base.joinpath(*parts)
    if bad or not path.resolve().is_relative_to(base.resolve()):
        raise HapaxError(
            f"The name {name!r} is not a file or folder name inside {base.name}; use letters, digits, "
            "spaces, dots and dashes, with / between folders."
        )
    return path

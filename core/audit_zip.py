"""An audit as one zip: packed to be sent, and checked before a byte of somebody else's is unpacked."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from stat import S_IFMT, S_IFREG
from threading import Lock

from .durable import free_path, writing
from .errors import HapaxError
from .own_names import load_names
from .report import load_audit

MOST_FILES, MOST_BYTES, MOST_JSON, MOST_RATIO = 200_000, 4 * 1024**3, 64 * 1024**2, 100
_MOST_DIRECTORY = 64 * 1024**2
# Below this a file of zeros may be as small as it likes.
_SMALL = 1 << 20
_CHUNK = 1 << 20
_TOP = re.compile(r"(audit|labels|workflow|prompt)\.json|features(-[1-9]\d{0,5})?\.safetensors", re.ASCII)
_INNER = {"images": {".png", ".jpg", ".jpeg", ".webp"}, "sae": {".safetensors"}}
_PACKED = {".json"}
# Names that Windows keeps for devices, whatever follows the dot.
_ONE_NAME_AT_A_TIME = Lock()
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def export_zip(folder: Path, target: Path) -> None:
    """Pack an audit's numbers, pictures, labels, features and autoencoders.

    Recordings stay out, because they are large, and so does report.html, which whoever gets the zip could not trust.

    Raises HapaxError if the zip can't be written.
    """
    with writing(target), zipfile.ZipFile(target, "w", allowZip64=True) as made:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.is_symlink() and _belongs(PurePosixPath(name)):
                # Pictures and weights don't get smaller.
                packed = zipfile.ZIP_DEFLATED if path.suffix in _PACKED else zipfile.ZIP_STORED
                made.write(path, name, packed)


def import_zip(source: Path, base: Path, name: str) -> Path:
    """Unpack an audit into a new folder of `base`, named after the letters and digits of `name`.

    If a folder of that name is there, a number is put behind it.

    Everything is checked first: the names, the number of files, their sizes as told and again as they come, and
    then the audit itself. The folder appears when all of it was right. No page comes with it: one from elsewhere
    could do anything.

    Returns:
        The folder.

    Raises:
        HapaxError: the zip is none, is damaged, hostile or too large, or holds no valid audit.
    """
    with writing(base):
        base.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".importing-", dir=base))
    try:
        _unpack(source, place)
        load_audit(place / "audit.json")
        load_names(place)
        with writing(base):
            place.chmod(0o755)
            with _ONE_NAME_AT_A_TIME:
                folder = free_path(base / _plain(name))
                place.rename(folder)
        return folder
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _plain(name: str) -> str:
    name = re.sub(r"[^\w-]+", "-", name.removesuffix(".zip").removesuffix(".hapax"))[:60].strip("-_")
    return "imported" if not name or _DEVICES.fullmatch(name) else name


def _unpack(source: Path, place: Path) -> None:
    try:
        _check_directory(source)
        with zipfile.ZipFile(source) as packed:
            entries = check_entries(packed)
            left = MOST_BYTES
            for entry in entries:
                left -= _extract(packed, entry, place / entry.filename, left)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, zlib.error, EOFError, UnicodeError) as error:
        raise HapaxError(f"This is not a zip, or a damaged one ({error}); export the audit again.") from error
    except (OSError, RuntimeError) as error:
        raise HapaxError(f"The zip can't be unpacked ({error}); free some space, or export the audit again.") from error


def _check_directory(source: Path) -> None:
    """Refuse a list of files that would fill the memory before it could be counted.

    An export's end is known to the byte: no comment, and, if there are many files, the 64-bit records before it.
    """
    with source.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 98))
        tail = file.read().rjust(98, b"\0")
    record, locator, end = tail[:56], tail[56:76], tail[76:]
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        raise HapaxError("This is not a zip as Hapax exports it; export the audit again.")
    directory = int.from_bytes(end[12:16], "little")
    if locator[:4] == b"PK\6\7":
        if record[:4] != b"PK\6\6" or int.from_bytes(locator[8:16], "little") != size - 98:
            raise HapaxError("The zip's end is damaged; export the audit again.")
        directory = int.from_bytes(record[40:48], "little")
    if directory > _MOST_DIRECTORY:
        raise HapaxError(f"The zip lists more files than the {MOST_FILES:,} that are taken.")


def check_entries(packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip that looks like an audit, by what it says of itself.

    Raises HapaxError at the first thing that an export never holds.
    """
    entries = [entry for entry in packed.infolist() if not entry.is_dir()]
    if len(packed.infolist()) > MOST_FILES:
        raise HapaxError(f"The zip has {len(packed.infolist()):,} files; at most {MOST_FILES:,} are taken.")
    seen: set[str] = set()
    for entry in entries:
        _check_name(entry)
        folded = entry.filename.casefold()
        if folded in seen:
            raise HapaxError(f"The zip has {entry.filename!r} twice; export the audit again.")
        seen.add(folded)
        if entry.file_size > MOST_JSON and folded.endswith(".json"):
            raise HapaxError(f"{entry.filename!r} has {entry.file_size:,} bytes; at most {MOST_JSON:,} are taken.")
        if entry.file_size > _SMALL and entry.file_size > MOST_RATIO * max(1, entry.compress_size):
            raise HapaxError(f"{entry.filename!r} would grow {MOST_RATIO} times and more; that is no audit.")
    total = sum(entry.file_size for entry in entries)
    if total > MOST_BYTES:
        raise HapaxError(f"The zip would unpack to {total:,} bytes; at most {MOST_BYTES:,} are taken.")
    if "audit.json" not in seen:
        raise HapaxError("The zip has no audit.json; give one that was exported by Hapax.")
    return entries


def _check_name(entry: zipfile.ZipInfo) -> None:
    # zipfile turns what the system takes for a separator into "/" and cuts at a NUL: what stood there first counts.
    raw, name = entry.orig_filename, entry.filename
    parts = raw.split("/")
    wrong = any(part in ("", ".", "..") or part.endswith((".", " ")) or _DEVICES.fullmatch(part) for part in parts)
    if wrong or raw != name or re.search(r'[\\:<>"|?*\x00-\x1f\x7f]', raw) or not _belongs(PurePosixPath(name)):
        raise HapaxError(f"The zip has a file {raw[:80]!r}, which no audit has; export the audit again.")
    kind = S_IFMT(entry.external_attr >> 16)
    if kind not in (0, S_IFREG):
        raise HapaxError(f"{name!r} in the zip is a link or a device, not a file; export the audit again.")
    if entry.flag_bits & 0x1:
        raise HapaxError(f"{name!r} in the zip is encrypted; export the audit again, without a password.")


def _belongs(path: PurePosixPath) -> bool:
    """Whether an export holds a file of this name."""
    if len(path.parts) == 1:
        return _TOP.fullmatch(path.name) is not None
    top = path.as_posix().partition("/")[0]
    return len(path.parts) <= 4 and path.suffix.lower() in _INNER.get(top, ())


def _extract(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Write one file and return its size; its header's word isn't taken for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with packed.open(entry) as source, path.open("xb") as target:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > min(left, entry.file_size):
                raise HapaxError(f"{entry.filename!r} is larger than the zip says; that is no audit.")
            target.write(chunk)
    return size

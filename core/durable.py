"""Files that are there whole or not at all, and the lock of the one process that may write into a folder."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import HapaxError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def writing(path: Path, n_bytes: int = 0) -> Iterator[None]:
    """Turn the system's refusals to write `path` into one HapaxError; `n_bytes` is what was to be written."""
    try:
        yield
    except OSError as error:
        raise HapaxError(_sentence(path, n_bytes, error)) from error


def _sentence(path: Path, n_bytes: int, error: OSError) -> str:
    if error.errno not in _FULL:
        why = error.strerror or str(error)
        return f"can't write {path}: {why}; choose a folder in which you may write"
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        return (
            f"no space left for {path}: {n_bytes / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; "
            "make room and run again, what was saved before is unharmed"
        )
    return f"no space left for {path}: {n_bytes / 1e6:.1f} MB are needed; make room and run again"


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one, never a part.

    Raises HapaxError if the disk is full or the folder can't be written; then nothing new is visible.
    """

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    _publish(path, len(data), fill)


def place_file(source: Path, path: Path) -> None:
    """Make the immutable file `source` appear at `path` too: a hard link where possible, else a copy."""

    def fill(temporary: Path) -> None:
        with suppress(OSError):
            os.link(source, temporary)
            return
        shutil.copyfile(source, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())

    _publish(path, source.stat().st_size, fill)


def _publish(path: Path, n_bytes: int, fill: Callable[[Path], None]) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path, n_bytes):
        try:
            temporary.unlink(missing_ok=True)
            fill(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, on the systems that have a call for it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def free_path(path: Path) -> Path:
    """Return `path`, or the first of `name-2.ext`, `name-3.ext`, ... that does not exist yet."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


class FolderLock:
    """Exclusive right to write into a folder, held from construction to `release` or the process's death.

    It is the system's own file lock: it vanishes with its process even on `kill -9`, so no marker can go
    stale. (A marker with a PID could: PIDs are reused, and other machines' can't be looked up.) Raises
    HapaxError if another writer, in this process or another, holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        with writing(path):
            self._file = open(path, "a+", encoding="utf-8")
        try:
            _lock(self._file.fileno())
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise HapaxError(self._refusal(folder)) from error
            warnings.warn(f"{folder} can't be locked here: let only one process write into it", stacklevel=2)
        with writing(path):
            self._note(f"process {os.getpid()} on {socket.gethostname()}")

    def _refusal(self, folder: Path) -> str:
        with self._file:
            self._file.seek(0)
            holder = self._file.read(200).strip() or "another process"
        return f"{folder} is being written by {holder}; wait for it, or write to a folder of your own and merge"

    def _note(self, text: str) -> None:
        self._file.truncate(0)
        self._file.write(text)
        self._file.flush()

    def release(self) -> None:
        """Let others write; the lock file stays, because deleting it would race with the next writer."""
        with suppress(OSError):
            self._note("")
        _unlock(self._file.fileno())
        self._file.close()


if sys.platform == "win32":
    import msvcrt

    # Windows forbids reading locked bytes, so the byte that is locked lies beyond the note on who holds it.
    _LOCKED_BYTE = 1 << 20

    def _lock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _unlock(handle: int) -> None:
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)

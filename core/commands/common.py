"""Shared by the commands: a parser that fails in one sentence, progress bars, the files that people name."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..distributed import rank
from ..errors import HapaxError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print one sentence to stderr and exit with 2."""
        self.exit(2, f"hapax: {message[0].upper()}{message[1:]}; see `{self.prog} --help`.\n")


class Bars:
    """One progress bar a stage on stderr, drawn by the first process only."""

    def __init__(self) -> None:
        self.stage, self.bar = "", None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done in `stage`."""
        if rank() != 0:
            return
        from tqdm import tqdm

        if stage != self.stage:
            self.close()
            self.stage, self.bar = stage, tqdm(total=total, desc=stage, file=sys.stderr)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Leave the last bar as it is."""
        if self.bar is not None:
            self.bar.close()


def quiet() -> None:
    """Keep the libraries' own progress bars and notes out of the terminal; what matters is said by the command."""
    import diffusers
    import transformers

    for module in (diffusers, transformers):
        module.utils.logging.disable_progress_bar()
        module.utils.logging.set_verbosity_error()


def add_common(parser: argparse.ArgumentParser, out: str | None = None) -> None:
    """`--out` and `--seed`, which every command takes."""
    parser.add_argument("--out", type=Path, required=out is None, default=out and Path(out), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")


def read_lines(path: Path, what: str) -> tuple[str, ...]:
    """The lines of a text file that hold something, in order.

    Raises:
        HapaxError: no such file, not text, or nothing in it.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise HapaxError(
            f"The {what} can't be read from {path}: {reason}; give a text file with one a line."
        ) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise HapaxError(f"{path} holds no {what}; give a text file with one a line.")
    return tuple(lines)


def writable(folder: Path) -> Path:
    """The folder, made if need be.

    Raises:
        HapaxError: it can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".hapax-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HapaxError(f"Nothing can be written to {folder}: {error.strerror}; choose another --out.") from error
    return folder


def command_line(arguments: Sequence[Any]) -> str:
    """A command as one types it."""
    return shlex.join(str(argument) for argument in arguments)

"""Shared by the commands: a parser that fails in one sentence, progress bars, the files and models people name."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..distributed import rank
from ..errors import HapaxError

if TYPE_CHECKING:
    from ..backends.diffusers import DiffusersBackend
    from ..embed import ClipEmbedder


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse; `--option=--`, which Python before 3.13 takes for an empty list of values, is refused."""
        args = sys.argv[1:] if args is None else list(args)
        for word in args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: '--' is no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one sentence to stderr and exit with 2."""
        self.exit(2, f"hapax: {message[0].upper()}{message[1:]}; see `{self.prog} --help`.\n")


@dataclass(frozen=True)
class Whole:
    """The type of an option that takes a whole number within bounds: bad ones are refused before any work.

    >>> Whole(1)("32")
    32
    """

    least: int
    # The largest number that JSON readers everywhere keep exactly.
    most: int = 2**53 - 1

    def __call__(self, text: str) -> int:
        """Read the number. Raises ArgumentTypeError."""
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not self.least <= number <= self.most:
            bounds = f"{self.least} or more" if self.most == Whole.most else f"from {self.least} to {self.most}"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number, {bounds}")
        return number


@dataclass(frozen=True)
class Number:
    """The type of an option that takes a finite number within bounds.

    >>> Number(0, 1)("0.2")
    0.2
    """

    least: float = -math.inf
    most: float = math.inf

    def __call__(self, text: str) -> float:
        """Read the number. Raises ArgumentTypeError."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and self.least <= number <= self.most):
            given = [f"{word} {bound:g}" for word, bound in (("from", self.least), ("to", self.most))]
            bounds = " ".join(text for text in given if "inf" not in text)
            raise argparse.ArgumentTypeError(f"{text!r} is no finite number{bounds and ', ' + bounds}")
        return number


def some_path(text: str) -> Path:
    """The type of an option that takes a path; an empty one (an unset shell variable) is refused.

    Raises ArgumentTypeError.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


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
    parser.add_argument("--out", type=some_path, required=out is None, default=out and Path(out), metavar="DIR")
    parser.add_argument("--seed", type=Whole(0), default=0, metavar="N", help="of everything random (default: 0)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device` and `--dtype`, which `load_backend` understands."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def add_clip(parser: argparse.ArgumentParser, default: str | None) -> None:
    """`--clip` and `--clip-weights`, which `clip_loader` understands; with no default it says whether it was given."""
    said = f" (default: {default})" if default else ""
    words = f"open_clip architecture, or hapax-emoji, which ships{said}"
    parser.add_argument("--clip", default=default, metavar="NAME", help=words)
    parser.add_argument("--clip-weights", type=some_path, metavar="FILE", help="its weights, a local .safetensors file")


def usable_device(name: str | None) -> str:
    """The device asked for; without one cuda, if there is one, or the CPU.

    Raises:
        HapaxError: torch can't use it.
    """
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        usable = torch.empty(1, device=name).device.type != "meta"
    # Torch raises AssertionError where it was built without the kind of device.
    except (RuntimeError, AssertionError, ValueError, NotImplementedError):
        usable = False
    if not usable:
        raise HapaxError(f"There is no device {name!r} here that torch can use; give cpu, cuda or cuda:1.")
    return name


def load_backend(pipeline: Path, device: str | None = None, dtype: str = "float32") -> DiffusersBackend:
    """Load a diffusers folder on a device, without the libraries' own notes.

    Raises:
        HapaxError: no such device, or no pipeline that can be loaded.
    """
    import torch

    from ..backends.diffusers import DiffusersBackend

    quiet()
    return DiffusersBackend.from_folder(pipeline, dtype=getattr(torch, dtype), device=usable_device(device))


def clip_loader(name: str, weights: Path | None, device: str | None) -> Callable[[], ClipEmbedder]:
    """A function that loads the CLIP model asked for: the one that ships, or open_clip's with a file of weights.

    Raises:
        HapaxError: no such device, or weights are missing or too many. What is wrong with the file is said on loading.
    """
    from ..embed import ClipEmbedder
    from ..emoji import CLIP_NAME, load_clip

    place = usable_device(device)
    if weights is None and name != CLIP_NAME:
        raise HapaxError(
            f"No weights were given for the CLIP model {name}; nothing is downloaded here, "
            "so give a local .safetensors file with --clip-weights."
        )
    if weights is None:
        return load_clip
    if name == CLIP_NAME:
        raise HapaxError(
            f"--clip-weights gives weights, but those of the CLIP model {CLIP_NAME} ship; "
            "name the open_clip architecture that they are of with --clip, or leave them out."
        )
    return lambda: ClipEmbedder.load(name, weights, place)


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

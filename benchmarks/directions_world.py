"""What the measurements of directions share: the emoji world, its concepts by half, and one command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from emoji_eval import CHOOSE, REPORT
from hapax.core.backends.diffusers import DiffusersBackend
from hapax.core.emoji import DEMO, MODEL_FOLDER
from hapax.core.emoji.judge import Verdict, judge
from hapax.core.emoji.world import World, load_world

Measurement = Callable[[argparse.Namespace, DiffusersBackend, World], dict]


def concepts(world: World, half: str) -> tuple[str, ...]:
    """The concepts to measure on."""
    return {"all": world.concepts, "choose": CHOOSE, "test": REPORT}[half]


def judged(backend: DiffusersBackend, prompt: str, seeds: range, taps: dict | None = None) -> Verdict:
    pictures = backend.sample(prompt, seeds, taps, output="pt", batch_size=64, **DEMO)
    return judge((pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy())


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that all measurements have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, metavar="DIR")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="the index, and what can be resumed")
    parser.add_argument("--half", choices=("choose", "test"), default="test")
    parser.add_argument("--steps", type=int, default=4, help="of the recordings; pictures take the model's ten")
    return parser


def measure(parser: argparse.ArgumentParser, commands: Mapping[str, Measurement]) -> int:
    """Run the measurement that is asked for and print it; 1 where a bar is missed on the reporting half."""
    parser.add_argument("what", choices=commands)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    found = commands[arguments.what](arguments, DiffusersBackend.from_folder(arguments.model), load_world())
    print(json.dumps(found, indent=1))
    return int(arguments.half == "test" and not found["holds"])

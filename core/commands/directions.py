"""`hapax directions build|lookup|describe|compass|apply`."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

from ..errors import HapaxError
from .common import Bars, Number, Parser, Whole, add_common, add_device, load_backend, read_lines, some_path, writable


def add_directions(commands: Any) -> None:
    """Register `hapax directions`."""
    parser: Parser = commands.add_parser("directions", help="directions from captions: build, look up, read biases")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", parser_class=Parser)
    _add_build(actions)
    _add_lookup(actions)
    _add_describe(actions)
    _add_compass(actions)


def _add_build(actions: Any) -> None:
    build = actions.add_parser("build", help="record a bank of captions; the same command again resumes")
    _add_model(build)
    build.add_argument("--bank", type=some_path, metavar="FILE", help="text, CSV, JSONL or pictures with captions")
    build.add_argument(
        "--prompts", type=some_path, metavar="FILE", help="say each caption behind these prompts, one a line"
    )
    build.add_argument("--neutral", default="", metavar="TEXT", help="neutral prompt (default: the empty one)")
    build.add_argument(
        "--whiten", type=Number(0, 1), metavar="S", help="whiten by the bank, shrunk by this share; 0: don't"
    )
    build.add_argument(
        "--for-pictures", action="store_true", help="record how the captions' pictures look to the model, for describe"
    )
    add_common(build)
    build.set_defaults(run=run_build)


def _add_lookup(actions: Any) -> None:
    lookup = actions.add_parser("lookup", help="name a direction, or take a caption's out and save it")
    lookup.add_argument("--index", type=some_path, required=True, metavar="FILE", help="what `build` wrote")
    what = lookup.add_mutually_exclusive_group(required=True)
    what.add_argument("--caption", metavar="TEXT", help="a caption of the bank; its direction is written to --out")
    what.add_argument("--direction", type=some_path, metavar="FILE", help="a saved direction")
    what.add_argument("--sae", type=some_path, metavar="FILE", help="an autoencoder; give --latent too")
    lookup.add_argument("--latent", type=Whole(0), metavar="N", help="the latent whose decoder row is meant")
    lookup.add_argument(
        "--versus", metavar="TEXT", help="the caption that --caption is relative to (default: the bank)"
    )
    lookup.add_argument("-k", type=Whole(1), default=5, metavar="N", help="captions to list (default: 5)")
    add_common(lookup, ".")
    lookup.set_defaults(run=run_lookup)


def _add_describe(actions: Any) -> None:
    describe = actions.add_parser("describe", help="say what sets pictures apart, in captions of the bank")
    describe.add_argument("--index", type=some_path, required=True, metavar="FILE", help="what `build` wrote")
    describe.add_argument("--pipeline", type=some_path, required=True, metavar="DIR", help="the model of the index")
    describe.add_argument("--pictures", type=some_path, nargs="+", required=True, metavar="FILE")
    describe.add_argument(
        "--against", type=some_path, nargs="+", default=[], metavar="FILE", help="what to compare with"
    )
    describe.add_argument(
        "--seeds", type=Whole(1), default=4, metavar="N", help="noises a picture is read at (default: 4)"
    )
    describe.add_argument("-k", type=Whole(1), default=5, metavar="N", help="captions to list (default: 5)")
    add_common(describe, ".")
    describe.set_defaults(run=run_describe)


def _add_compass(actions: Any) -> None:
    compass = actions.add_parser("compass", help="where unqualified prompts lie between poles")
    _add_model(compass)
    compass.add_argument("--prompts", type=some_path, required=True, metavar="FILE", help="one a line")
    compass.add_argument(
        "--poles", nargs="+", required=True, metavar="TEXT", help="2 to 8; {} is the prompt, as in '{}, woman'"
    )
    add_common(compass)
    compass.set_defaults(run=run_compass)


def _add_model(parser: Parser) -> None:
    """What a model is made to record with."""
    parser.add_argument("--pipeline", type=some_path, required=True, metavar="DIR", help="a local diffusers folder")
    parser.add_argument("--seeds", type=Whole(2), default=8, metavar="N", help="pictures a caption (default: 8)")
    parser.add_argument("--steps", type=Whole(1), default=4, metavar="N", help="of the sampler (default: 4)")
    parser.add_argument("--guidance", type=Number(0), metavar="G", help="default: the pipeline's; 1 costs half")
    parser.add_argument("--site", default="mid", help="where to record (default: mid)")
    parser.add_argument("--batch-size", type=Whole(1), default=8, metavar="N")
    add_device(parser)


def _recipe(arguments: argparse.Namespace, bars: Bars) -> dict[str, Any]:
    names = ("steps", "guidance", "site", "batch_size")
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    return {name: getattr(arguments, name) for name in names} | {"seeds": seeds, "progress": bars}


def run_build(arguments: argparse.Namespace) -> None:
    """Build an index into `index.safetensors`."""
    from ..directions import CaptionIndex, behind, read_bank
    from ..distributed import process_group, rank

    prompts = read_lines(arguments.prompts, "prompts") if arguments.prompts else ()
    captions, out = behind(prompts, read_bank(arguments.bank)), writable(arguments.out)
    with process_group(), closing(Bars()) as bars:
        index = CaptionIndex.build(
            load_backend(arguments.pipeline, arguments.device, arguments.dtype),
            captions,
            neutral=arguments.neutral,
            whiten=arguments.whiten,
            for_pictures=arguments.for_pictures,
            folder=out / "recording",
            **_recipe(arguments, bars),
        )
        bars.close()
        if rank() == 0:
            path = out / "index.safetensors"
            index.save(path)
            told = int(index.reliable.sum())
            print(f"{told} of {len(index)} captions have a direction that is more than noise")
            print(f"wrote {path}")


def run_lookup(arguments: argparse.Namespace) -> None:
    """Print the captions nearest to a direction."""
    from ..directions import CaptionIndex, Direction
    from ..sae import load_sae

    index = CaptionIndex.load(arguments.index)
    if arguments.versus is not None and arguments.caption is None:
        raise HapaxError("--versus goes with --caption only; give the caption that is compared.")
    if arguments.caption is not None:
        direction = index.direction(arguments.caption, arguments.versus)
        path = writable(arguments.out) / "direction.safetensors"
        direction.save(path)
        _print_naming(index.name(direction, arguments.k))
        print(json.dumps(index.evidence(arguments.caption)))
        print(f"wrote {path}")
        return
    if arguments.direction is not None:
        return _print_naming(index.name(Direction.load(arguments.direction), arguments.k))
    sae = load_sae(arguments.sae)
    if arguments.latent is None or arguments.latent >= sae.d_sae:
        raise HapaxError(f"--latent is {arguments.latent}; give one of the autoencoder's, from 0 to {sae.d_sae - 1}.")
    index.check_fits({**sae.meta, "channels": sae.d_in})
    _print_naming(index.name(sae.W_dec[arguments.latent], arguments.k))


def run_describe(arguments: argparse.Namespace) -> None:
    """Print what sets pictures apart."""
    from ..directions import CaptionIndex

    index = CaptionIndex.load(arguments.index)
    pictures, against = ([_picture(path) for path in paths] for paths in (arguments.pictures, arguments.against))
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    backend = load_backend(arguments.pipeline)
    _print_naming(index.describe(pictures, against or None, arguments.k, backend=backend, seeds=seeds))


def run_compass(arguments: argparse.Namespace) -> None:
    """Read the compass into `compass.json`."""
    from ..directions import compare
    from ..distributed import process_group, rank
    from ..durable import write_file

    prompts, out = read_lines(arguments.prompts, "prompts"), writable(arguments.out)
    with process_group(), closing(Bars()) as bars:
        backend = load_backend(arguments.pipeline, arguments.device, arguments.dtype)
        recipe = _recipe(arguments, bars)
        readings = compare(backend, prompts, arguments.poles, folder=out / "compass-recording", **recipe)
        bars.close()
        if rank() == 0:
            path = out / "compass.json"
            write_file(path, json.dumps([reading.row() for reading in readings], indent=1).encode())
            for reading in readings:
                shares = ", ".join(f"{pole} {100 * share:.0f} %" for pole, (share, *_) in reading.shares.items())
                print(f"{reading.prompt}: lean {reading.lean}; {shares}")
            print(f"wrote {path}")


def _picture(path: Path) -> Any:
    from ..picture_files import read_picture

    picture = read_picture(path)
    if isinstance(picture, str):
        raise HapaxError(f"{path} is no picture that can be read ({picture}); give PNG, JPEG or WebP files.")
    return picture


def _print_naming(naming: Any) -> None:
    for name, cosine in naming.nearest:
        print(f"{cosine:+.3f}  {name}")
    said = f"good: {', '.join(name for name, _ in naming.names)}" if naming.names else "no good name"
    print(f"p {naming.p:.3f}, {said}")

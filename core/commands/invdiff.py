"""`hapax invdiff train|sample`."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HapaxError
from .common import (
    Bars,
    Number,
    Parser,
    add_clip,
    add_common,
    add_device,
    clip_loader,
    load_backend,
    read_lines,
    writable,
)

if TYPE_CHECKING:
    from ..backends.diffusers import DiffusersBackend
    from ..collect import Sampling


def add_invdiff(commands: Any) -> None:
    """Register `hapax invdiff`."""
    parser: Parser = commands.add_parser("invdiff", help="train and use guidance that evens out what a model shows")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", parser_class=Parser)
    train = actions.add_parser("train", help="find groups without labels and train a guidance module on them")
    _add_model(train)
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", type=Path, metavar="FILE", help="one a line; the model makes the pictures")
    source.add_argument("--pictures", type=Path, metavar="DIR", help="pictures with a caption (.txt) beside each")
    train.add_argument("--images", type=int, default=1000, metavar="N", help="made a prompt (default: 1000)")
    words = "what groups are inferred from (default: clip where --clip is given, else losses)"
    train.add_argument("--by", choices=("clip", "losses"), help=words)
    add_clip(train, None)
    train.add_argument("--groups", type=int, default=32, metavar="N", help="a prompt (default: 32)")
    train.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="of training; each but the first goes on, also on pictures made under the one before (default: 2, or 1 "
        "with --pictures)",
    )
    train.add_argument("--site", default="mid", help="where the module acts (default: mid)")
    train.add_argument("--train-steps", type=int, default=1500, metavar="N", help="default: 1500")
    train.add_argument("--train-batch", type=int, default=48, metavar="N", help="default: 48")
    train.add_argument("--accumulation", type=int, default=1, metavar="N", help="parts of a batch (default: 1)")
    train.add_argument("--lr", type=float, default=2e-3, help="default: 0.002")
    train.add_argument("--variance-weight", type=float, default=0.0, metavar="X", help="default: 0, plain balancing")
    train.add_argument("--risk", choices=("variance", "deviation", "worst"), default="variance")
    train.add_argument("--bf16", action="store_true", help="train in bfloat16 autocast")
    train.add_argument("--checkpointing", action="store_true", help="trade time for memory")
    train.add_argument("--resume", action="store_true", help="go on with the training in --out")
    add_common(train)
    train.set_defaults(run=run_train)

    sample = actions.add_parser("sample", help="make pictures with a guidance module")
    _add_model(sample)
    sample.add_argument("--guidance-file", type=Path, required=True, metavar="FILE", help="written by train")
    sample.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one a line")
    sample.add_argument("--images", type=int, default=8, metavar="N", help="made a prompt (default: 8)")
    sample.add_argument(
        "--strength", type=Number(), default=1.0, metavar="X", help="0 is the model as it is (default: 1)"
    )
    sample.add_argument("--start", type=float, metavar="X", help="of the window, 0 is pure noise (default: as trained)")
    sample.add_argument("--end", type=float, metavar="X", help="of the window, 1 is a clean picture")
    sample.add_argument("--both", action="store_true", help="guide the rows under the negative prompt too")
    add_common(sample)
    sample.set_defaults(run=run_sample)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", type=Path, required=True, metavar="DIR", help="a local diffusers pipeline")
    parser.add_argument("--steps", type=int, default=30, metavar="N", help="of the sampler (default: 30)")
    parser.add_argument("--guidance", type=float, default=7.5, metavar="X", help="of the sampler (default: 7.5)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures at once (default: 8)")
    parser.add_argument("--height", type=int, metavar="PX")
    parser.add_argument("--width", type=int, metavar="PX")
    add_device(parser)


def _model(arguments: argparse.Namespace) -> tuple[DiffusersBackend, Sampling]:
    from ..collect import Sampling

    size = {name: getattr(arguments, name) for name in ("height", "width") if getattr(arguments, name)}
    backend = load_backend(arguments.pipeline, arguments.device, arguments.dtype)
    return backend, Sampling(arguments.steps, arguments.guidance, arguments.batch_size, size)


def run_train(arguments: argparse.Namespace) -> None:
    """Make or read pictures, infer groups, train; each part is kept in --out and gone on with."""
    from ..distributed import process_group, rank
    from ..invdiff.session import GuidanceSession, SessionSettings
    from ..invdiff.training import GuidanceConfig

    config = GuidanceConfig(
        site=arguments.site,
        steps=arguments.train_steps,
        batch_size=arguments.train_batch,
        accumulation=arguments.accumulation,
        lr=arguments.lr,
        variance_weight=arguments.variance_weight,
        risk=arguments.risk,
        bf16=arguments.bf16,
        checkpointing=arguments.checkpointing,
        seed=arguments.seed,
    )
    prompts = read_lines(arguments.prompts, "prompts") if arguments.prompts else ()
    by = arguments.by or ("clip" if arguments.clip or arguments.clip_weights else "losses")
    name = arguments.clip or "hapax-emoji"
    clip = clip_loader(name, arguments.clip_weights, arguments.device) if by == "clip" else None
    with process_group(), closing(Bars()) as bars:
        backend, sampling = _model(arguments)
        settings = SessionSettings(
            prompts,
            arguments.pictures,
            arguments.images,
            sampling,
            arguments.groups,
            by,
            arguments.seed,
            rounds=arguments.rounds if arguments.rounds is not None else 1 if arguments.pictures else 2,
        )
        session = GuidanceSession(backend, settings, config, writable(arguments.out), bars, clip)
        path = session.run(resume=arguments.resume)
        bars.close()
        if rank() == 0:
            print(f"wrote {path}")


def run_sample(arguments: argparse.Namespace) -> None:
    """Make pictures with guidance and write them as PNG."""
    import dataclasses

    from ..invdiff import check_fits, load_guidance

    prompts, out = read_lines(arguments.prompts, "prompts"), writable(arguments.out)
    if arguments.images < 1:
        raise HapaxError(f"--images is {arguments.images}; give 1 or more.")
    module = load_guidance(arguments.guidance_file)
    backend, sampling = _model(arguments)
    check_fits(module, backend)
    window = {name: getattr(arguments, name) for name in ("start", "end") if getattr(arguments, name) is not None}
    module.scope = dataclasses.replace(module.scope, rows="both" if arguments.both else "cond", **window)
    module.set_strength(arguments.strength)
    module.to(backend.denoiser.device)
    seeds = range(arguments.seed, arguments.seed + arguments.images)
    for number, prompt in enumerate(prompts):
        pictures = sampling.pictures(backend, prompt, seeds, {module.shape.site: module})
        for seed, picture in zip(seeds, pictures, strict=True):
            picture.save(out / f"{number:03d}-{seed}.png")
    print(f"wrote {len(prompts) * len(seeds)} pictures to {out}")

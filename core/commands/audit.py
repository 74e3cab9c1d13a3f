"""`hapax demo` and `hapax audit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HapaxError
from .common import (
    Bars,
    Number,
    Parser,
    Whole,
    add_clip,
    add_common,
    add_device,
    clip_loader,
    command_line,
    load_backend,
    read_lines,
    some_path,
    writable,
)

if TYPE_CHECKING:
    from ..audit_settings import AuditSettings
    from ..embed import ClipEmbedder

DEMO_PROMPTS = ("a photo of a firefighter", "a photo of a cook")
DEMO_POLES = ("{}, woman", "{}, man")


def add_demo(commands: Any) -> None:
    """Register `hapax demo`."""
    parser: Parser = commands.add_parser("demo", help="audit the embedded emoji model, in minutes on a laptop")
    add_common(parser, "out/demo")
    parser.add_argument("--images", type=Whole(1), default=500, metavar="N", help="pictures per prompt (default: 500)")
    parser.set_defaults(run=run_demo)


def add_audit(commands: Any) -> None:
    """Register `hapax audit`."""
    parser: Parser = commands.add_parser("audit", help="audit any local diffusers text-to-image pipeline")
    add_common(parser)
    parser.add_argument("--pipeline", type=some_path, required=True, metavar="DIR", help="a local diffusers folder")
    parser.add_argument("--prompts", type=some_path, required=True, metavar="FILE", help="one prompt a line")
    add_clip(parser, "ViT-L-14")
    parser.add_argument(
        "--bank",
        type=some_path,
        metavar="FILE",
        help="captions to name features with: text, CSV, JSONL or pictures with captions (default: a general bank)",
    )
    parser.add_argument(
        "--index",
        type=some_path,
        metavar="FILE",
        help="name features by what `directions build` recorded of this model, in place of CLIP",
    )
    parser.add_argument(
        "--poles", nargs="+", default=(), metavar="TEXT", help="also read where prompts lie: '{}, woman' '{}, man'"
    )
    parser.add_argument(
        "--compass-seeds", type=Whole(4), default=128, metavar="N", help="of each prompt and pole (default: 128)"
    )
    parser.add_argument(
        "--guidance-file", type=some_path, metavar="FILE", help="also compare with this module of `invdiff train`"
    )
    parser.add_argument("--strength", type=Number(), default=1.0, metavar="X", help="of it (default: 1)")
    parser.add_argument(
        "--labels", nargs="+", default=(), metavar="TEXT", help="groups to count for that: '{}, woman' '{}, man'"
    )
    parser.add_argument(
        "--images", type=Whole(1), default=1000, metavar="N", help="pictures per prompt (default: 1000)"
    )
    parser.add_argument("--site", default="mid", help="where to read activations (default: mid)")
    parser.add_argument("--steps", type=Whole(1), default=50, help="of the sampler (default: 50)")
    parser.add_argument("--guidance", type=Number(0), default=7.5, help="guidance scale (default: 7.5)")
    parser.add_argument("--batch-size", type=Whole(1), default=8, metavar="N")
    parser.add_argument("--height", type=Whole(1), help="of the pictures, in pixels")
    parser.add_argument("--width", type=Whole(1), help="of the pictures, in pixels")
    parser.add_argument("--record-steps", type=Whole(1), default=5, metavar="N", help="steps recorded (default: 5)")
    parser.add_argument("--positions", type=Whole(1), default=64, metavar="N", help="positions recorded (default: 64)")
    parser.add_argument(
        "--sae", type=some_path, metavar="FILE", help="use this autoencoder (default: train one a prompt)"
    )
    parser.add_argument("--latents", type=Whole(2), metavar="N", help="size of the autoencoder (default: 16 a channel)")
    parser.add_argument("--coarse", type=Whole(1), metavar="N", help="latents that are scored (default: a tenth)")
    parser.add_argument("--k", type=Whole(1), default=32, metavar="N", help="active latents a token (default: 32)")
    parser.add_argument("--epochs", type=Whole(1), default=5, metavar="N", help="of the autoencoder (default: 5)")
    parser.add_argument("--features", type=Whole(1), default=10, metavar="N", help="shown a prompt (default: 10)")
    parser.add_argument(
        "--rare", type=Number(0, 1), default=0.15, metavar="SHARE", help="largest share shown (default: 0.15)"
    )
    parser.add_argument("--amplify", type=Whole(0), default=1, metavar="N", help="of them turned up (default: 1)")
    parser.add_argument("--normalize", choices=("rank", "minmax"), default="rank")
    add_device(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the audit in --out")
    parser.set_defaults(run=run_audit)


def run_demo(arguments: argparse.Namespace) -> None:
    """Audit two prompts of the emoji model; a folder that holds a part of it is gone on with."""
    from ..audit_settings import AuditSettings
    from ..collect import Sampling
    from ..emoji import CREDITS, DEMO, MODEL_FOLDER, MODEL_INDEX, load_clip, phrases
    from ..findings import SAESize

    if not MODEL_INDEX.exists():
        raise HapaxError(
            "The emoji model's weights are not in this copy of Hapax; build them with "
            "`python -m hapax.core.emoji.build --runs DIR`, which takes about two hours on two cores."
        )
    settings = AuditSettings(
        prompts=DEMO_PROMPTS,
        images=arguments.images,
        seed=arguments.seed,
        bank=phrases(),
        poles=DEMO_POLES,
        amplified=2,
        # Below 3 % of the pictures the demo claims nothing.
        min_support=max(5, -(-3 * arguments.images // 100)),
        sampling=Sampling(steps=DEMO["steps"], guidance=DEMO["guidance"], batch_size=50),
        positions=16,
        sae=SAESize(latents=1280, coarse=256, k=12, epochs=6),
    )
    out = writable(arguments.out)
    _audit(MODEL_FOLDER, load_clip, settings, out, resume=True, model_name="the embedded emoji model", credits=CREDITS)


def run_audit(arguments: argparse.Namespace) -> None:
    """Audit a local pipeline."""
    from ..audit_settings import AuditSettings
    from ..collect import Sampling
    from ..directions import read_bank
    from ..findings import SAESize

    size = {name: getattr(arguments, name) for name in ("height", "width") if getattr(arguments, name)}
    settings = AuditSettings(
        prompts=read_lines(arguments.prompts, "prompts"),
        bank=read_bank(arguments.bank),
        index=arguments.index and str(arguments.index.resolve()),
        poles=tuple(arguments.poles),
        compass_seeds=arguments.compass_seeds,
        sampling=Sampling(arguments.steps, arguments.guidance, arguments.batch_size, size),
        images=arguments.images,
        site=arguments.site,
        record_steps=arguments.record_steps,
        positions=arguments.positions,
        listed=arguments.features,
        rare=arguments.rare,
        amplified=arguments.amplify,
        sae=SAESize(arguments.latents, arguments.coarse, arguments.k, arguments.epochs),
        sae_file=arguments.sae and str(arguments.sae.resolve()),
        normalize=arguments.normalize,
        seed=arguments.seed,
        guidance_file=arguments.guidance_file and str(arguments.guidance_file.resolve()),
        strength=arguments.strength,
        labels=tuple(arguments.labels),
    )
    _audit(
        arguments.pipeline,
        clip_loader(arguments.clip, arguments.clip_weights, arguments.device),
        settings,
        writable(arguments.out),
        resume=arguments.resume,
        model_name=arguments.pipeline.name,
        device=arguments.device,
        dtype=arguments.dtype,
    )


def _audit(
    pipeline: Path,
    clip: Callable[[], ClipEmbedder],
    settings: AuditSettings,
    out: Path,
    *,
    resume: bool,
    model_name: str,
    device: str | None = "cpu",
    dtype: str = "float32",
    credits: Sequence[str] = (),
) -> None:
    from ..audit import Audit
    from ..distributed import process_group, rank
    from ..report import load_audit

    embedder = clip()
    with process_group(), closing(Bars()) as bars:
        backend = load_backend(pipeline, device, dtype)
        audit = Audit(backend, embedder, settings, out, bars, model_name, credits)
        report = audit.run(resume=resume, command=command_line(["hapax", *sys.argv[1:]]))
        bars.close()
        if rank() == 0:
            print(summary(load_audit(out / "audit.json")))
            print(f"\nwrote {out / 'audit.json'}\nreport: {report.resolve()}")


def summary(audit: dict[str, Any]) -> str:
    """The features found, as a table for the terminal."""
    lines = []
    for prompt in audit["prompts"]:
        lines += ["", f"{prompt['prompt']}  ({prompt['images']} pictures)"]
        if not prompt["features"]:
            lines.append("  nothing that is both rare and distinct was found")
        for feature in prompt["features"]:
            rate = f"{100 * feature['frequency']:.1f} %"
            spread = f"({100 * feature['frequency_low']:.1f} to {100 * feature['frequency_high']:.1f})"
            name = feature["label"] or "no good name"
            lines.append(f"  {name:<22} fires on {rate:>7} {spread:<16} score {feature['score']:.2f}  {feature['id']}")
            if feature.get("amplified"):
                before, after = (feature["amplified"][key]["rate"] for key in ("rate_before", "rate_after"))
                lines.append(
                    f"  {'':<22} turned up: {100 * before:.0f} % of pictures before, {100 * after:.0f} % after"
                )
    return "\n".join(lines).strip("\n")

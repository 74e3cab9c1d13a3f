"""`hapax sce`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Bars, Number, Parser, Whole, add_clip, add_common, clip_loader, command_line, some_path, writable

if TYPE_CHECKING:
    from ..embed import ClipEmbedder
    from ..sce import Mode
    from ..sce.folder import Embedded, Pairing

SHOWN = 8
_LISTED = 5


def add_sce(commands: Any) -> None:
    """Register `hapax sce`."""
    parser: Parser = commands.add_parser("sce", help="how diverse pictures are beyond what their prompts explain")
    add_common(parser)
    parser.add_argument("--images", type=some_path, required=True, metavar="DIR", help="the pictures")
    parser.add_argument(
        "--prompts",
        type=some_path,
        metavar="FILE",
        help="JSONL with file_name and prompt, one prompt a line in the pictures' order, one line for all, or a "
        "folder of .txt files (default: a .txt beside each picture)",
    )
    add_clip(parser, "hapax-emoji")
    parser.add_argument("--kernel", choices=("cosine", "gaussian"), default="cosine")
    parser.add_argument("--sigma", type=Number(0), help="of the Gaussian kernel; embeddings have the norm 1")
    parser.add_argument("--ridge", type=Number(0), help="of the regression on the prompts (default: 0.001)")
    parser.add_argument("--frequencies", type=Whole(1), metavar="N", help="of the Gaussian kernel (default: exact)")
    parser.add_argument("--folds", type=Whole(2), metavar="N", help="cross-fit, for prompts that nearly all differ")
    parser.add_argument("--modes", type=Whole(0), default=5, metavar="N", help="directions to show (default: 5)")
    parser.add_argument("--batch-size", type=Whole(1), default=64, metavar="N")
    parser.add_argument("--device", default="cpu", help="for CLIP: cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run_sce)


def run_sce(arguments: argparse.Namespace) -> None:
    """Score a folder of pictures; writes sce.json, and modes.png with the pictures at the ends of each mode."""
    from ..durable import write_file
    from ..emoji import CLIP_NAME
    from ..sce.folder import embed_pairs, pair

    pairing, out = pair(arguments.images, arguments.prompts), writable(arguments.out)
    clip = clip_loader(arguments.clip, arguments.clip_weights, arguments.device)()
    with closing(Bars()) as bars:
        data = embed_pairs(arguments.images, pairing, clip, batch_size=arguments.batch_size, progress=bars)
    found = _measured(arguments, data) | _files(pairing, data) | _provenance(arguments, clip)
    if clip.name == CLIP_NAME:
        found["notes"].append(f"{CLIP_NAME} was trained on emoji only; for other pictures give --clip, --clip-weights.")
    written = [out / "sce.json"]
    write_file(written[0], f"{json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode())
    if found["modes"]:
        written.append(_sheet(found, arguments.images, out / "modes.png"))
    print(json.dumps(found, indent=1) if arguments.json else summary(found))
    said = "\n".join(f"wrote {path}" for path in written)
    print(said, file=sys.stderr if arguments.json else sys.stdout)


def _measured(arguments: argparse.Namespace, data: Embedded) -> dict[str, Any]:
    import torch

    from ..sce import DEFAULT_RIDGE, diversity_modes, rke_score, vendi_score
    from ..sce.summary import score_row

    ridge = DEFAULT_RIDGE if arguments.ridge is None else arguments.ridge

    def kernel() -> dict[str, Any]:
        # A fresh generator for every call, so that all draw the same frequencies.
        generator = torch.Generator().manual_seed(arguments.seed)
        names = {"kernel": arguments.kernel, "sigma": arguments.sigma, "rff_dim": arguments.frequencies}
        return names | {"generator": generator}

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        score = score_row(data.image, data.text, ridge=ridge, folds=arguments.folds, **kernel())
    modes = []
    if arguments.modes:
        count, few = arguments.modes, SHOWN
        modes = diversity_modes(data.image, data.text, ridge=ridge, count=count, pictures=few, **kernel())
    return {
        "score": score,
        "vendi": vendi_score(data.image, **kernel()),
        "rke": rke_score(data.image, **kernel()),
        "modes": [_mode(mode, data) for mode in modes],
        "notes": [str(note.message) for note in notes],
    }


def _mode(mode: Mode, data: Embedded) -> dict[str, Any]:
    ends = {end: [data.names[i] for i in getattr(mode, end)] for end in ("high", "low")}
    return {"share": mode.share, "eigenvalue": mode.eigenvalue, **ends}


def _files(pairing: Pairing, data: Embedded) -> dict[str, Any]:
    return {
        "matched_by": pairing.matched_by,
        "unreadable": [{"file": name, "reason": reason} for name, reason in data.unreadable],
        "without_prompt": pairing.without_prompt,
        "without_picture": pairing.without_picture,
    }


def _provenance(arguments: argparse.Namespace, clip: ClipEmbedder) -> dict[str, Any]:
    import open_clip
    import torch

    from ... import __version__

    versions = {"hapax": __version__, "torch": torch.__version__, "open_clip": open_clip.__version__}
    settings = {name: getattr(arguments, name) for name in ("kernel", "sigma", "frequencies", "folds", "seed")}
    return {
        "settings": settings | {"clip": {"name": clip.name, "fingerprint": clip.fingerprint}},
        "provenance": {"command": command_line(["hapax", *sys.argv[1:]]), "versions": versions},
    }


def _sheet(found: dict[str, Any], folder: Path, path: Path) -> Path:
    """One row a mode: the pictures at one end, and under them those at the other."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    from ..contact_sheet import Row, draw_sheet
    from ..durable import write_file
    from ..picture_files import read_picture

    rows = []
    for number, mode in enumerate(found["modes"], 1):
        lines = [f"{100 * mode['share']:.1f} % of what prompts leave open", "above: one end", "below: the other"]
        names = [name for end in ("high", "low") for name in _padded(mode[end])]
        pictures = [torch.from_numpy(np.array(read_picture(folder / n))) if n else torch.empty(0) for n in names]
        rows.append(Row(f"mode {number}", lines, pictures, badge=str(number)))
    score = found["score"]
    subtitle = f"SCE {score['image']:.2f} beyond the prompts, over {score['n']:,} pictures"
    sheet = draw_sheet("What varies beyond the prompts", subtitle, rows, columns=SHOWN)
    target = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(target, "PNG")
    write_file(path, target.getvalue())
    return path


def _padded(names: list[str]) -> list[str]:
    return names + [""] * (SHOWN - len(names))


def summary(found: dict[str, Any]) -> str:
    """The result as a table for the terminal."""
    score, settings = found["score"], found["settings"]
    told = (
        ("image", "beyond the prompts (SCE)"),
        ("text", "owed to the prompts"),
        ("image_effective", "kinds beyond the prompts"),
        ("text_effective", "kinds owed to the prompts"),
    )
    lines = [f"{score['n']:,} pictures, {score['unique_texts']:,} different prompts, matched by {found['matched_by']}"]
    for name, words in told:
        spread = score[f"{name}_interval"]
        ends = f"  ({spread[0]:.3f} to {spread[1]:.3f})" if spread else ""
        lines.append(f"  {words:<28}{score[name]:>9.3f}{ends}")
    lines += [
        f"  {'share beyond the prompts':<28}{score['trace_image']:>9.3f}",
        f"  {'Vendi score':<28}{found['vendi']:>9.3f}",
        f"  {'RKE':<28}{found['rke']:>9.3f}",
        f"{settings['kernel']} kernel, ridge {score['ridge']:g}, {settings['clip']['name']}; "
        + ("too few pictures for intervals" if score["image_interval"] is None else "intervals are 95 %"),
    ]
    lines += [f"note: {note}" for note in found["notes"]]
    lines += _told("could not be read", [f"{row['file']} ({row['reason']})" for row in found["unreadable"]])
    lines += _told("had no prompt", found["without_prompt"])
    lines += _told("in the prompts had no picture", found["without_picture"])
    return "\n".join(lines)


def _told(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = [f"  and {len(names) - _LISTED} more, listed in sce.json"] if len(names) > _LISTED else []
    return [f"{len(names)} {what}:", *(f"  {name}" for name in names[:_LISTED]), *more]

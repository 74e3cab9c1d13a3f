"""`hapax sae train|info|export`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .common import Bars, Parser, Whole, add_common, some_path, writable


def add_sae(commands: Any) -> None:
    """Register `hapax sae`."""
    parser: Parser = commands.add_parser("sae", help="train, inspect and export sparse autoencoders")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", parser_class=Parser)

    train = actions.add_parser("train", help="train on an activation store, such as an audit's activations/")
    train.add_argument("--store", type=some_path, required=True, metavar="DIR", help="the activation store")
    train.add_argument("--latents", type=Whole(2), metavar="N", help="size (default: 16 a channel)")
    train.add_argument("--coarse", type=Whole(1), metavar="N", help="size of the coarse prefix (default: a tenth)")
    train.add_argument("--k", type=Whole(1), default=32, metavar="N", help="active latents a token (default: 32)")
    train.add_argument("--epochs", type=Whole(1), default=5, metavar="N", help="default: 5")
    add_common(train)
    train.set_defaults(run=run_train)

    info = actions.add_parser("info", help="say what a file holds and what it fits")
    info.add_argument("--sae", type=some_path, required=True, metavar="FILE")
    add_common(info, ".")
    info.set_defaults(run=run_info)

    export = actions.add_parser("export", help="write a folder that SAELens loads")
    export.add_argument("--sae", type=some_path, required=True, metavar="FILE")
    add_common(export)
    export.set_defaults(run=run_export)


def run_train(arguments: argparse.Namespace) -> None:
    """Train one autoencoder on all pictures of a store."""
    from ..activations import ActivationStore
    from ..findings import SAESize, train_on
    from ..sae import save_sae

    store, out, bars = ActivationStore.open(arguments.store), writable(arguments.out), Bars()
    size = SAESize(arguments.latents, arguments.coarse, arguments.k, arguments.epochs)
    steps, positions, channels = store.layout.shapes()["tokens"]
    config = size.config(channels, len(store) * steps * positions, arguments.seed)
    samples = list(range(len(store)))
    trained = train_on(store, samples, config, progress=lambda done, total, _: bars("training", done, total))
    bars.close()
    path = out / "sae.safetensors"
    save_sae(trained.sae, path, meta={**store.provenance, "pictures": len(samples), "metrics": trained.metrics})
    print(json.dumps(trained.metrics, indent=1))
    print(f"wrote {path}")


def run_info(arguments: argparse.Namespace) -> None:
    """Print shape, metrics and provenance of a file as JSON."""
    from ..sae import load_sae

    sae = load_sae(arguments.sae)
    d_sae, d_in = sae.W_dec.shape
    print(
        json.dumps(
            {"d_in": d_in, "d_sae": d_sae, "prefix_sizes": list(sae.prefix_sizes), "k": sae.k, **sae.meta}, indent=1
        )
    )


def run_export(arguments: argparse.Namespace) -> None:
    """Export for SAELens."""
    from ..sae import export_saelens, load_sae

    sae = load_sae(arguments.sae)
    export_saelens(sae, writable(arguments.out))
    print(f"wrote {arguments.out}")

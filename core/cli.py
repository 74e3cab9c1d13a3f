"""The `hapax` command: argparse, thin over the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .errors import HapaxError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 2 on bad input with one sentence on stderr, 130 when interrupted."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except HapaxError as error:
        print(f"hapax: {str(error).rstrip('.')}.", file=sys.stderr)
        return 2
    except OSError as error:
        reason = f"{error.filename or 'a file'} can't be used: {error.strerror or error}"
        print(f"hapax: {reason}; make room or choose another folder, then go on with --resume.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hapax: stopped; what was made is kept, run it again with --resume to go on.", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command's grammar."""
    from .commands import audit, directions, invdiff, sae, sce
    from .commands.common import Parser

    parser = Parser(prog="hapax", description="Find what a diffusion model knows but almost never shows.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (
        audit.add_demo,
        audit.add_audit,
        sce.add_sce,
        sae.add_sae,
        directions.add_directions,
        invdiff.add_invdiff,
    ):
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

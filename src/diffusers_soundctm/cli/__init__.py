"""The `soundctm` command: one module per subcommand."""

import argparse
import sys
from collections.abc import Sequence

from ..terminal import print_any_text
from ..version import __version__
from . import (
    convert,
    demo,
    draw,
    evaluate,
    export,
    extend,
    fill,
    generate,
    info,
    learn,
    loop,
    morph,
    refine,
    sketch,
    vary,
)

# Modules of this package import torch, diffusers and transformers inside functions. `--help` and errors in the
# arguments then need a tenth of a second in place of several seconds.
COMMANDS = (
    generate,
    refine,
    vary,
    morph,
    draw,
    sketch,
    fill,
    extend,
    loop,
    learn,
    info,
    demo,
    convert,
    export,
    evaluate,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the command's name; None takes those of the process.

    Returns:
        The exit code: 0, 2 for bad input or a failure, 130 for an interruption.
    """
    print_any_text()
    arguments = parse(argv)
    try:
        arguments.run(arguments)
        return 0
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"soundctm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soundctm: interrupted", file=sys.stderr)
        return 130


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`. The result's `run` is the function that carries the command out."""
    parser = argparse.ArgumentParser(
        prog="soundctm", description="Generate sounds from text in 1 to 16 steps.", epilog=generate.EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser.parse_args(argv)

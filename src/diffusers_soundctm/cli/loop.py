"""`soundctm loop`: make a draft loop seamlessly."""

import argparse
from pathlib import Path

from .editing import add_edit_options, make_files, model_of, open_studio, outputs
from .made import read_made

EXAMPLE = "example: soundctm loop bubbles.wav -o bubbles-loop.wav"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("loop", help="make a draft loop seamlessly", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("draft", type=Path, help="file that soundctm or its app wrote")
    add_edit_options(parser, "loop")


def run(arguments: argparse.Namespace) -> None:
    """Write the same sound with an end that runs into its start.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app import edits

    (path,) = outputs(arguments, arguments.draft)
    made = read_made(arguments.draft)
    recipe = edits.looped(made.recipe, arguments.steps)
    studio = open_studio(model_of(arguments, made), [made])
    make_files(studio, [recipe], [path], arguments.loudness)

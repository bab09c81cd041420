"""`soundctm morph`: turn one draft into another over time."""

import argparse
from pathlib import Path

from ..app.defaults import FINAL_STEPS
from .editing import add_edit_options, make_files, model_of, open_studio, outputs
from .made import read_made

EXAMPLE = "example: soundctm morph organ.wav waves.wav -o morph.wav"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("morph", help="turn one draft into another over time", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("draft", type=Path, help="file that soundctm or its app wrote: how the sound begins")
    parser.add_argument("last", type=Path, help="another one: how the sound ends")
    add_edit_options(parser, "morph", steps=FINAL_STEPS)


def run(arguments: argparse.Namespace) -> None:
    """Write a sound that begins as one draft and ends as another.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app import edits

    (path,) = outputs(arguments, arguments.draft)
    first, last = read_made(arguments.draft), read_made(arguments.last)
    if arguments.model is None and first.model != last.model:
        raise ValueError(
            f"{first.file} was made with the model {first.model!r} and {last.file} with {last.model!r}; morph two "
            "sounds of one model."
        )
    recipe = edits.morphed(first.recipe, last.recipe, arguments.steps)
    studio = open_studio(model_of(arguments, first), [first, last])
    make_files(studio, [recipe], [path], arguments.loudness)

"""`soundctm vary`: make sounds near a draft."""

import argparse
from pathlib import Path

from .editing import add_edit_options, make_files, model_of, open_studio, outputs, random_or
from .made import read_made

EXAMPLE = "example: soundctm vary dog.wav --amount 0.2 --num 4"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("vary", help="make sounds near a draft", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("draft", type=Path, help="file that soundctm or its app wrote")
    parser.add_argument(
        "--amount", type=float, default=0.3, help="0 is the same sound, 1 an unrelated one (default: %(default)s)"
    )
    parser.add_argument("--num", type=int, default=4, help="number of variations (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of the first variation; each further adds 1 (default: random)")
    add_edit_options(parser, "varied", steps=None)


def run(arguments: argparse.Namespace) -> None:
    """Write variations of a draft and print how far each one is from it.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app import edits

    if arguments.num < 1:
        raise ValueError(f"--num is {arguments.num}; choose at least 1.")
    paths = outputs(arguments, arguments.draft, arguments.num)
    made = read_made(arguments.draft)
    seed = random_or(arguments.seed)
    if not 0 <= arguments.amount <= 1:
        raise ValueError(f"--amount is {arguments.amount:g}; choose 0 (the same sound) to 1 (an unrelated one).")
    draft = made.recipe if arguments.steps is None else made.recipe.change(steps=arguments.steps)
    recipes = edits.variation_recipes(draft, arguments.amount, seed, arguments.num)
    studio = open_studio(model_of(arguments, made), [made])
    before = studio.make(draft)

    def say(take):
        distance = studio.drift(before, take)
        return "" if distance is None else f", drift {distance:.3f} (0 is the draft, about 1 an unrelated sound)"

    make_files(studio, recipes, paths, arguments.loudness, say=say)

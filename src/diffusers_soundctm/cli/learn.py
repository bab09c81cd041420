"""`soundctm learn`: teach the model new sounds from a folder of recordings."""

import argparse
from pathlib import Path

from .arguments import add_model, check_seed, check_steps

_METHODS = ("teacher", "student")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "learn",
        help="teach the model new sounds from your recordings",
        epilog='example: soundctm learn my_sounds --name "my creature" -o my-creature',
    )
    parser.set_defaults(run=run)
    parser.add_argument("recordings", type=Path, help="folder of 5 to 200 recordings, an hour at most")
    parser.add_argument("--name", help="name of the adapter, and the prompt for it if the recordings have no captions")
    parser.add_argument(
        "--caption", help="prompt of all recordings (default: metadata.csv, else NAME, else the names of the files)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", required=True, help="folder of the adapter")
    parser.add_argument("--updates", type=int, help="training steps (default: 300)")
    parser.add_argument("--method", choices=_METHODS, help="what is trained (default: teacher)")
    parser.add_argument("--teacher", help="folder or Hub id of the model's teacher (default: the embedded model's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--license", help="SPDX id of the license of the recordings, for the card")
    parser.add_argument("--push-to-hub", action="store_true", help="upload the adapter; needs --license")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train the adapter.

    Raises:
        ValueError, OSError, RuntimeError: the message names the argument and the remedy.
    """
    from ..training.learning_arguments import check, defaults

    check_seed(arguments.seed)
    given = {
        "recordings": str(arguments.recordings),
        "name": arguments.name,
        "caption": arguments.caption,
        "output_dir": str(arguments.output),
        "model": arguments.model,
        "teacher": arguments.teacher,
        "seed": arguments.seed,
        "hub_license": arguments.license,
        "push_to_hub": arguments.push_to_hub,
        "resume_from_checkpoint": "latest" if arguments.resume else None,
    }
    if arguments.updates is not None:
        check_steps(arguments.updates, "--updates")
        given["max_train_steps"] = arguments.updates
    if arguments.method is not None:
        given["method"] = arguments.method
    args = defaults(**given)
    check(args)

    from ..training.learning import learn

    try:
        learn(args)
    except FloatingPointError as error:
        raise RuntimeError(str(error)) from error

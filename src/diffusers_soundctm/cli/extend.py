"""`soundctm extend`: continue a recording after its end."""

import argparse

from .editing import add_recording_options, random_or
from .recordings import edit_recording, prompt_of

EXAMPLE = "example: soundctm extend walk.wav --to 8 -o longer.wav"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("extend", help="continue a recording after its end", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("--to", type=float, required=True, metavar="SECONDS", help="length of the result, at most 30 s")
    add_recording_options(parser, "extended")


def run(arguments: argparse.Namespace) -> None:
    """Write the recording with a generated continuation.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app import edits

    seed, prompt = random_or(arguments.seed), prompt_of(arguments.prompt, arguments.recording)

    def build(source, seconds):
        if not arguments.to > seconds:
            raise ValueError(f"--to is {arguments.to:g}; {arguments.recording} lasts {seconds:.2f} s already.")
        recipe = edits.continued(source, seconds, prompt, arguments.to - seconds, arguments.steps, seed)
        return recipe.change(duration=arguments.to)  # the sum may differ in the last digit

    edit_recording(arguments, build)

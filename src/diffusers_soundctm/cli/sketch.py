"""`soundctm sketch`: make a sound that follows a voice."""

import argparse
from typing import TYPE_CHECKING

from .editing import Model, add_recording_options, make_files, open_studio, outputs, random_or
from .recordings import length_of

if TYPE_CHECKING:
    from ..app.studio import Take

EXAMPLE = 'example: soundctm sketch voice.wav "a growling monster" -o monster.wav'
CURVES = ("loudness", "brightness", "pitch")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("sketch", help="make a sound that follows a voice", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    add_recording_options(parser, "sketched", "description of the sound")
    parser.add_argument("--num", type=int, default=1, help="sounds to make, with successive seeds (default: 1)")
    for name in CURVES:
        parser.add_argument(f"--no-{name}", action="store_true", help=f"do not follow the {name} of the voice")
    parser.add_argument(
        "--strength", type=float, default=0.2, help="how closely to follow, 0.05 to 4 (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write sounds that follow the curves of the voice, and print how far they are from them.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app.edits import sketched
    from ..app.sketches import Sketch
    from ..app.uploads import read_upload

    seed = random_or(arguments.seed)
    wanted = [name for name in CURVES if not getattr(arguments, f"no_{name}")]
    if not wanted:
        raise ValueError(
            "--no-loudness, --no-brightness and --no-pitch leave nothing to follow; leave one of them out."
        )
    if arguments.num < 1:
        raise ValueError(f"--num is {arguments.num}; choose at least 1.")
    paths = outputs(arguments, arguments.recording, arguments.num)
    seconds = length_of(arguments.recording)
    sketch = Sketch.taken(read_upload(arguments.recording, 16000, 1), 16000, wanted)
    recipes = [
        sketched(arguments.prompt, seconds, sketch, arguments.strength, arguments.steps, seed + i)
        for i in range(arguments.num)
    ]
    studio = open_studio(Model(arguments.model or "embedded", arguments.dtype, arguments.device, tuple(arguments.lora)))

    def say(take: "Take") -> str:
        return f", {sketch.report(studio.pipe, take.waveform)}"

    make_files(studio, recipes, paths, arguments.loudness, arguments.recording, say)

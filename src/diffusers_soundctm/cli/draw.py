"""`soundctm draw`: make a draft follow a loudness curve."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .editing import add_edit_options, make_files, model_of, open_studio, outputs
from .made import read_made
from .recordings import length_of

if TYPE_CHECKING:
    from ..app.studio import Studio, Take

EXAMPLE = "example: soundctm draw rain.wav --curve 0:-40 2.5:-15 5:-40 -o swell.wav"
POINTS = 64  # of a curve that is given as times or taken from a sound


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("draw", help="make a draft follow a loudness curve", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("draft", type=Path, help="file that soundctm or its app wrote")
    curve = parser.add_mutually_exclusive_group(required=True)
    curve.add_argument(
        "--curve",
        nargs="+",
        metavar="SECONDS:DB",
        help="points of the curve, joined by lines, -100 to 0 dB; or values in dB alone, evenly spaced over the sound",
    )
    curve.add_argument("--like", type=Path, metavar="FILE", help="follow the loudness of this sound file")
    parser.add_argument(
        "--strength", type=float, default=0.2, help="how closely to follow, 0.05 to 4 (default: %(default)s)"
    )
    add_edit_options(parser, "drawn")


def run(arguments: argparse.Namespace) -> None:
    """Write the draft's sound with the loudness of the curve, and print how far it is from the curve.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app import edits
    from ..app.curves import curve_report
    from ..app.uploads import read_upload

    (path,) = outputs(arguments, arguments.draft)
    made = read_made(arguments.draft)
    if arguments.like is None:
        curve = read_curve(arguments.curve, made.recipe.duration)
    else:
        curve = [0.0, 0.0]  # until the model, whose front end measures it, is loaded
        length_of(arguments.like)
    recipe = edits.drawn(made.recipe, curve, arguments.strength, arguments.steps)
    studio = open_studio(model_of(arguments, made), [made])
    if arguments.like is not None:
        waveform = read_upload(arguments.like, studio.pipe.sampling_rate, studio.pipe.num_channels)
        recipe = recipe.change(curve=tuple(studio.loudness(waveform, POINTS)))
    make_files(studio, [recipe], [path], arguments.loudness, say=lambda take: distance(studio, take))
    take = studio.make(recipe)  # from the cache
    report = curve_report(studio.curve_error(take), take.turned_down_db)
    if report and arguments.loudness is None:  # a loudness of its own moves the sound away from the curve
        print(report)


def read_curve(texts: list[str], duration: float) -> list[float]:
    """Return evenly spaced values in dB from points "SECONDS:DB" or from values alone.

    Raises:
        ValueError: a point is not of this form, or lies beyond the end of the sound.
    """
    import numpy as np

    pairs = [text.split(":") for text in texts]
    try:
        numbers = [[float(number) for number in pair] for pair in pairs]
    except ValueError as error:
        raise ValueError(f"--curve has {' '.join(texts)}; write points such as 0:-40 2.5:-15 5:-40.") from error
    if len(numbers) > 1 and all(len(pair) == 1 for pair in numbers):
        return [value for (value,) in numbers]
    if any(len(pair) != 2 for pair in numbers):
        raise ValueError(f"--curve has {' '.join(texts)}; write points such as 0:-40 2.5:-15 5:-40.")
    times, values = zip(*sorted(numbers, key=lambda pair: pair[0]), strict=True)
    if not 0 <= times[0] <= times[-1] <= duration + 1e-3:
        raise ValueError(f"--curve has times from {times[0]:g} to {times[-1]:g} s; the sound lasts {duration:g} s.")
    return np.interp(np.linspace(0, duration, POINTS), times, values).tolist()


def distance(studio: "Studio", take: "Take") -> str:
    """Return what to print about the difference between the curve of a take and its loudness."""
    return f", on average {studio.curve_error(take):.1f} dB from the curve"

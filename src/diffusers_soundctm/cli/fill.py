"""`soundctm fill`: replace parts of a recording."""

import argparse

from .editing import add_recording_options, random_or
from .recordings import edit_recording, prompt_of

EXAMPLE = 'example: soundctm fill walk.wav "birds sing" --spans 1:2 -o fixed.wav'


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("fill", help="replace parts of a recording", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--spans", nargs="+", required=True, metavar="START:END", help="parts to replace, in seconds, at most 8"
    )
    add_recording_options(parser, "filled")


def run(arguments: argparse.Namespace) -> None:
    """Write the recording with its spans generated anew.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app import edits

    seed, prompt = random_or(arguments.seed), prompt_of(arguments.prompt, arguments.recording)

    def build(source, seconds):
        spans = read_spans(arguments.spans, seconds)
        return edits.filled(source, seconds, prompt, spans, arguments.steps, seed)

    edit_recording(arguments, build)


def read_spans(texts: list[str], seconds: float) -> list[tuple[float, float]]:
    """Return pairs of seconds from texts "START:END".

    Raises:
        ValueError: a span is not of this form or lies beyond the recording, or the spans leave nothing of it.
    """
    spans = []
    for text in texts:
        start, _, end = text.partition(":")
        try:
            spans.append((float(start), float(end)))
        except ValueError as error:
            raise ValueError(f"--spans has {text!r}; write a start and an end in seconds, such as 1:2.") from error
        if not 0 <= spans[-1][0] < spans[-1][1] <= seconds + 1e-3:
            raise ValueError(f"--spans has {text}; choose a start and a later end within the {seconds:.2f} s.")
    covered = 0.0
    for start, end in sorted(spans):
        if start <= covered:
            covered = max(covered, end)
    if covered >= seconds:
        raise ValueError("--spans cover the whole recording; leave a part of it, or use soundctm generate.")
    return spans

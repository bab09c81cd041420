"""Print on any terminal."""

import io
import sys


def print_any_text() -> None:
    """Let the process print names that its terminal cannot show: their characters become question marks.

    Without this, a terminal in Latin-1 or ASCII ends a command with `UnicodeEncodeError` after its work is done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

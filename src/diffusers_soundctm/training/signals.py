"""Signals that stop a run without loss."""

import contextlib
import os
import signal
import sys
from types import FrameType

# Windows has no SIGUSR1.
STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def end_at_once(message: str) -> None:
    """Let SIGTERM and SIGUSR1 end this process at once, with a message and exit code 0, as long as nothing can be lost.

    The process ends without unwinding: an exception in the middle of an import or of a decoder's callback may be
    swallowed there. The locks of a process that has ended are free, and the next run removes its temporary files.

    Args:
        message: What to print.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the signal may have arrived during a flush
            sys.stdout.flush()
        os.write(sys.stdout.fileno(), f"\n{message}\n".encode())
        os._exit(0)

    for number in STOPS:
        signal.signal(number, handle)


def ignore_stops() -> None:
    """Ignore SIGTERM and SIGUSR1, for a process that has done its work and is about to end."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


class StopSignal:
    """Notes SIGTERM and SIGUSR1 from `start` until the context closes.

    Before `start`, what `end_at_once` installed holds. Afterwards a signal only sets `requested`, and the loop ends
    after the step at hand, with a checkpoint.

    Attributes:
        requested: Whether a signal has arrived.
    """

    def __init__(self):
        self.requested = False
        self._before: dict[int, object] = {}

    def start(self) -> None:
        """Note signals from here on."""
        for number in STOPS:
            self._before[number] = signal.signal(number, self._handle)

    def __enter__(self) -> "StopSignal":
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

"""Signals that stop a run without loss."""

import signal
from types import FrameType

from tqdm import tqdm

STOPPED_EARLY = "Stopped by a signal before the first step. Start the same command again."


class StopSignal:
    """Handles SIGTERM and SIGUSR1 while the context is open.

    Before training, while `can_finish_step` is False, a signal ends the process with exit code 0: there is nothing to
    save. Later it only sets `requested`, and the loop ends after the step at hand, with a checkpoint.

    Args:
        can_finish_step: Whether training has started.

    Attributes:
        requested: Whether a signal has arrived.
        can_finish_step: See above; the loop sets it.
    """

    def __init__(self, can_finish_step: bool = True):
        self.requested = False
        self.can_finish_step = can_finish_step
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.can_finish_step:
            tqdm.write(STOPPED_EARLY)
            raise SystemExit(0)

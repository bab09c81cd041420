"""A lock that several people share fairly: the next turn goes to whoever has waited longest since their last one."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class FairQueue:
    """A lock that alternates between owners, however many requests each of them has made.

    Example:
        ```python
        queue = FairQueue()
        with queue.turn("browser tab 1"):
            ...  # nobody else has a turn
        ```
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[object]] = OrderedDict()
        self._is_taken = False

    @contextmanager
    def turn(self, owner: str, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Wait for a turn of `owner` and hold it during the block.

        Args:
            owner: Whose turn it is.
            is_cancelled: Checked while waiting, at each `wake` and each change of turn.

        Yields:
            True with the turn, or False without it if `is_cancelled` returned True.
        """
        ticket = object()
        with self._changed:
            self._waiting.setdefault(owner, deque()).append(ticket)
            while (self._is_taken or self._next() is not ticket) and not is_cancelled():
                self._changed.wait()
            has_turn = not is_cancelled()
            self._leave(owner, ticket, has_turn)
            self._is_taken = self._is_taken or has_turn
        try:
            yield has_turn
        finally:
            with self._changed:
                if has_turn:
                    self._is_taken = False
                self._changed.notify_all()

    def wake(self) -> None:
        """Make all waiting requests check whether they were cancelled."""
        with self._changed:
            self._changed.notify_all()

    def _next(self) -> object:
        return next(iter(self._waiting.values()))[0]

    def _leave(self, owner: str, ticket: object, had_turn: bool) -> None:
        tickets = self._waiting[owner]
        tickets.remove(ticket)
        if not tickets:
            del self._waiting[owner]
        elif had_turn:
            self._waiting.move_to_end(owner)

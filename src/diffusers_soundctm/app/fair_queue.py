"""One model, many people: whoever has waited longest without a turn is next, however much others have asked for."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class FairQueue:
    """A lock that is handed round between owners, not between requests.

    Example:
        >>> with queue.turn("somebody"):
        ...     pass  # alone here
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[object]] = OrderedDict()
        self._is_taken = False

    @contextmanager
    def turn(self, owner: str, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Wait for a turn of `owner`; yields False, without the turn, if it was given up while waiting (see `wake`)."""
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
        """Make all who wait look again whether they were cancelled."""
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

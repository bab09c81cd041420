"""A lock that several people share fairly: the next turn goes to whoever has waited longest since their last one."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MAX_WAITING = 48  # of all; each waiting request occupies a thread of the server
MAX_WAITING_PER_CLIENT = 24


@dataclass(frozen=True)
class Owner:
    """Who asks for a sound.

    Args:
        session: A browser tab, or a session of an API client. Clients choose this name themselves.
        client: The network address, which bounds what one client can ask for in many sessions.
    """

    session: str = ""
    client: str = ""


class Busy(RuntimeError):
    """Too many requests are waiting."""

    def __init__(self, waiting: int, whose: str):
        super().__init__(f"The app is busy: {waiting} requests {whose} are waiting. Try again in a minute.")


@dataclass(frozen=True, eq=False)
class _Ticket:
    owner: Owner
    number: int


class FairQueue:
    """A lock that alternates between clients, and between the sessions of each, however many requests they make.

    Args:
        max_waiting: Largest number of waiting requests.
        max_waiting_per_client: Largest number of waiting requests of one client.

    Example:
        ```python
        queue = FairQueue()
        with queue.turn(Owner("browser tab 1")):
            ...  # nobody else has a turn
        ```
    """

    def __init__(self, max_waiting: int = MAX_WAITING, max_waiting_per_client: int = MAX_WAITING_PER_CLIENT):
        self.max_waiting, self.max_waiting_per_client = max_waiting, max_waiting_per_client
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Ticket] = []
        self._last: dict[str | Owner, int] = {}  # when each client and owner that waits had its last turn, or arrived
        self._is_taken = False

    @contextmanager
    def turn(self, owner: Owner, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Wait for a turn of `owner` and hold it during the block.

        Args:
            owner: Whose turn it is.
            is_cancelled: Checked while waiting, at each `wake` and each change of turn.

        Yields:
            True with the turn, or False without it if `is_cancelled` returned True.

        Raises:
            Busy: Too many requests are waiting.
        """
        with self._changed:
            ticket = self._join(owner)
            try:
                while (self._is_taken or self._next() is not ticket) and not is_cancelled():
                    self._changed.wait()
                has_turn = not is_cancelled()
            finally:
                self._waiting.remove(ticket)
            if has_turn:
                self._is_taken = True
                self._last[owner.client] = self._last[owner] = next(self._numbers)
            waiting = {name for other in self._waiting for name in (other.owner, other.owner.client)}
            self._last = {name: last for name, last in self._last.items() if name in waiting}
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

    def _join(self, owner: Owner) -> _Ticket:
        of_client = sum(ticket.owner.client == owner.client for ticket in self._waiting)
        if of_client >= self.max_waiting_per_client:
            raise Busy(of_client, "from your address")
        if len(self._waiting) >= self.max_waiting:
            raise Busy(len(self._waiting), "from others")
        ticket = _Ticket(owner, next(self._numbers))
        self._waiting.append(ticket)
        for name in (owner.client, owner):
            self._last.setdefault(name, ticket.number)
        return ticket

    def _next(self) -> _Ticket:
        last = self._last
        return min(self._waiting, key=lambda one: (last[one.owner.client], last[one.owner], one.number))

"""Long work with a view of it: steps as they are done, then the result."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .recipe import Recipe
from .studio import Studio, Take


def steps_then_take(studio: Studio, recipe: Recipe, owner: str) -> Iterator[tuple[int, int] | Take]:
    """(done, of) after each step of the sampler, and at last the take.

    Raises:
        Cancelled, ValueError, TypeError: as `Studio.make`.
    """
    yield from events(lambda report: studio.make(recipe, owner, lambda done, of: report((done, of))))


def events(work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """What `work(report)` reports while it runs in a thread of its own, then what it returns or raises."""
    reported: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            reported.put(("returned", work(lambda value: reported.put(("reported", value)))))
        except BaseException as error:  # handed over to the caller, who raises it
            reported.put(("raised", error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        kind, value = reported.get()
        if kind == "raised":
            raise value
        yield value
        if kind == "returned":
            return

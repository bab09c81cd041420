"""Report the progress of long work while it runs in a thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .fair_queue import Owner
from .recipe import Recipe
from .studio import Studio, Take


def steps_then_take(studio: Studio, recipe: Recipe, owner: Owner) -> Iterator[tuple[int, int] | Take]:
    """Make a sound and yield (finished steps, all steps) after each sampling step, then the take.

    Raises:
        Busy, Cancelled, ValueError: As `Studio.make`.
    """
    yield from events(lambda report: studio.make(recipe, owner, lambda done, total: report((done, total))))


def events(work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """Run `work(report)` in a thread. Yield each value that it reports, then its result; raise what it raises."""
    reported: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            reported.put(("returned", work(lambda value: reported.put(("reported", value)))))
        except BaseException as error:  # the caller's thread raises it
            reported.put(("raised", error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        kind, value = reported.get()
        if kind == "raised":
            raise value
        yield value
        if kind == "returned":
            return

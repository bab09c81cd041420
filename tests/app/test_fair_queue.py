"""Turns alternate between owners."""

import threading

from diffusers_soundctm.app.fair_queue import FairQueue


def test_turns_alternate_between_owners():
    queue, order = FairQueue(), []

    def ask(owner, is_queued):
        # The queue asks for cancellation while it waits.
        with queue.turn(owner, is_cancelled=is_queued.set) as has_turn:
            assert has_turn
            order.append(owner)

    with queue.turn("first"):
        threads = []
        for owner in ["greedy"] * 4 + ["modest", "shy"]:
            is_queued = threading.Event()
            threads.append(threading.Thread(target=ask, args=(owner, is_queued)))
            threads[-1].start()
            assert is_queued.wait(20)
    for thread in threads:
        thread.join()
    assert order[:3] == ["greedy", "modest", "shy"] and order[3:] == ["greedy"] * 3

"""Turns alternate between clients and between their sessions, and few may wait."""

import threading

import pytest

from diffusers_soundctm.app.fair_queue import Busy, FairQueue, Owner


def order_of(owners, queue=None):
    """Let the owners ask in this order while somebody else has the turn. Return the order in which they get theirs."""
    queue, order = queue or FairQueue(), []

    def ask(owner, is_queued):
        # The queue asks for cancellation while it waits.
        with queue.turn(owner, is_cancelled=is_queued.set) as has_turn:
            assert has_turn
            order.append(owner)

    with queue.turn(Owner("first")):
        threads = []
        for owner in owners:
            is_queued = threading.Event()
            threads.append(threading.Thread(target=ask, args=(owner, is_queued)))
            threads[-1].start()
            assert is_queued.wait(20)
    for thread in threads:
        thread.join()
    return order


def test_turns_alternate_between_sessions():
    greedy, modest, shy = (Owner(name) for name in ("greedy", "modest", "shy"))
    assert order_of([greedy] * 4 + [modest, shy]) == [greedy, modest, shy, greedy, greedy, greedy]


def test_many_sessions_of_one_client_get_the_turns_of_one():
    many, other = [Owner(f"tab {i}", "10.0.0.1") for i in range(4)], Owner("tab", "10.0.0.2")
    assert order_of([*many, other, other]) == [many[0], other, many[1], other, many[2], many[3]]


def test_few_may_wait():
    queue = FairQueue(max_waiting=3, max_waiting_per_client=2)
    one, other = Owner("tab", "10.0.0.1"), Owner("tab", "10.0.0.2")

    def ask_again(owner, said):
        with pytest.raises(Busy, match=said), queue.turn(owner):
            pass
        return False

    def full():
        return ask_again(Owner("new tab", "10.0.0.1"), "2 requests from your address")

    threads = []
    with queue.turn(Owner("first")):
        for owner in (one, one, other):
            is_queued = threading.Event()

            def ask(owner=owner, is_queued=is_queued):
                with queue.turn(owner, is_queued.set):
                    pass

            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            assert is_queued.wait(20)
        full()
        ask_again(Owner("tab", "10.0.0.3"), "3 requests from others")
    for thread in threads:
        thread.join()
    with queue.turn(one) as has_turn:  # those who were refused left nothing behind
        assert has_turn

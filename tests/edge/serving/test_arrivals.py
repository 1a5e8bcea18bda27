"""A stop waits for what is inside, and the network gives way to the device's own programs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from hybridge_edge.contract.errors import Unavailable
from hybridge_edge.serving.arrivals import QUIET_S, Arrivals
from hybridge_edge.serving.call import LOCAL, NETWORK


def test_a_stop_lets_nobody_in_and_waits_for_who_is_inside() -> None:
    arrivals, inside, go = Arrivals(), Event(), Event()

    def work() -> str:
        with arrivals.enter(NETWORK):
            inside.set()
            assert go.wait(10)
            return "done"

    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(work)
        assert inside.wait(5)
        closing = pool.submit(arrivals.close, 10)
        time.sleep(0.1)
        assert not closing.done()
        with pytest.raises(Unavailable, match="The server stops"), arrivals.enter(LOCAL):
            pass
        go.set()
        assert working.result(5) == "done"
        closing.result(5)


def test_a_stop_waits_no_longer_than_it_is_given() -> None:
    arrivals = Arrivals()
    with arrivals.enter(LOCAL):
        arrivals.close(0.05)


def together(arrivals: Arrivals) -> int:
    """How many of four network calls were inside at the same time."""
    most, inside = 0, 0

    def work() -> None:
        nonlocal most, inside
        with arrivals.enter(NETWORK):
            inside += 1
            most = max(most, inside)
            time.sleep(0.03)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result(10)
    return most


def test_the_network_goes_one_by_one_while_local_programs_ask_and_freely_when_they_do_not() -> None:
    arrivals = Arrivals()
    assert together(arrivals) > 1
    stop = Event()

    def ask() -> None:
        while not stop.wait(0.01):
            with arrivals.enter(LOCAL):
                pass

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        time.sleep(0.05)
        assert together(arrivals) == 1
        stop.set()
        asking.result(5)
    time.sleep(QUIET_S * 2)
    assert together(arrivals) > 1

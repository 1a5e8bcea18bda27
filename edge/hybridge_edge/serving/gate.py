"""Bounds how many requests run and how many wait; the rest are told so at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from hybridge_edge.contract.errors import Overloaded

MAX_WAITING = 64
MAX_WAIT_S = 5.0
IDLE_POLL_S = 0.002
_LATER = "Send fewer at once, or try again later."


class Gate:
    """At most ``running`` inside, at most ``waiting`` in front of it, none longer than MAX_WAIT_S seconds."""

    def __init__(self, running: int, waiting: int = MAX_WAITING) -> None:
        self._free = running
        self._room = self._rooms = waiting
        self._condition = Condition()

    @contextmanager
    def enter(self, timeout_s: float) -> Iterator[None]:
        """Hold one of the places, waiting at most ``timeout_s`` seconds for it. Raises Overloaded."""
        with self._condition:
            if self._free == 0:
                self._wait(time.monotonic() + min(timeout_s, MAX_WAIT_S))
            self._free -= 1
        try:
            yield
        finally:
            with self._condition:
                self._free += 1
                self._condition.notify()

    def wait_for_idle(self, seconds: float) -> None:
        """Until a place is free that nobody waits for, at most ``seconds``.

        For work beside the requests, which asks before each run and then enters like anybody else. It polls, so that
        it never takes the word that a place is free from a request that waits for it.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with self._condition:
                if self._free > 0 and self._room == self._rooms:
                    return
            time.sleep(IDLE_POLL_S)

    def _wait(self, until: float) -> None:
        if self._room == 0:
            raise Overloaded("Too many requests wait already.", _LATER)
        self._room -= 1
        try:
            while self._free == 0:
                left = until - time.monotonic()
                if left <= 0:
                    raise Overloaded("The request waited too long for its turn.", _LATER)
                self._condition.wait(left)  # looked at again also after the time is up: the wake-up may be ours
        finally:
            self._room += 1

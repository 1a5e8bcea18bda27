"""Inferences as they come in over both transports: counted, so that a stop can wait for them.

And the network gives way: while the device's own programs ask, its requests are taken one at a time, with a pause after
each as long as it took, twice over. Of the interpreter, which all share, the network then gets a third at most. Nobody
who waits so uses anything but a thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

from hybridge_edge.contract.errors import Overloaded, Unavailable
from hybridge_edge.serving.call import LOCAL

QUIET_S = 0.1
"""After the last local request: from then on the network has the server to itself."""
PAUSE_RATIO = 2.0
MAX_PAUSE_S = 0.05
MAX_WAIT_S = 5.0


class Arrivals:
    """Shared by the transports of one server and their threads."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._inside = 0
        self._closing = False
        self._last_local = -QUIET_S
        self._one = Lock()
        self._not_before = 0.0

    @contextmanager
    def enter(self, peer: str) -> Iterator[None]:
        """Around one inference. Raises Unavailable once the server stops, Overloaded after MAX_WAIT_S of giving way."""
        with self._condition:
            if self._closing:
                raise Unavailable("The server stops.", "Try again in a moment.")
            self._inside += 1
        try:
            if peer == LOCAL:
                self._last_local = time.monotonic()
                yield
            elif time.monotonic() - self._last_local > QUIET_S:
                yield
            else:
                with self._turn():
                    yield
        finally:
            with self._condition:
                self._inside -= 1
                if self._closing and not self._inside:
                    self._condition.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._one.acquire(timeout=MAX_WAIT_S):
            raise Overloaded("The device's own programs come first, and leave no time.", "Try again later.")
        try:
            began = time.monotonic()
            if self._not_before > began:
                time.sleep(self._not_before - began)
                began = time.monotonic()
            yield
            ended = time.monotonic()
            self._not_before = ended + min((ended - began) * PAUSE_RATIO, MAX_PAUSE_S)
        finally:
            self._one.release()

    def close(self, seconds: float) -> None:
        """Let in no more, and wait for what is inside, at most so long."""
        with self._condition:
            self._closing = True
            self._condition.wait_for(lambda: not self._inside, seconds)

"""Inferences as they come in over both transports: counted, so that a stop can wait for them.

And the network gives way: while the device's own programs ask, its requests are taken one at a time, with a pause after
each as long as it took, twice over. Of the interpreter, which all share, the network then gets a third at most. Nobody
who waits so uses anything but a thread.
"""

from __future__ import annotations

import time
from threading import Condition, Lock
from types import TracebackType

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
        self._lock = Lock()
        self._empty = Condition(self._lock)
        self._inside = 0
        self._closing = False
        self._last_local = -QUIET_S
        self._one = Lock()
        self._not_before = 0.0

    def enter(self, peer: str) -> Arrival:
        """Around one inference. Raises Unavailable once the server stops, Overloaded after MAX_WAIT_S of giving way."""
        with self._lock:
            if self._closing:
                raise Unavailable("The server stops.", "Try again in a moment.")
            self._inside += 1
        now = time.monotonic()
        if peer == LOCAL:
            self._last_local = now
        elif now - self._last_local <= QUIET_S:
            try:
                return Arrival(self, self._take_turn())
            except BaseException:
                self.leave()
                raise
        return Arrival(self)

    def leave(self, turn_began: float | None = None) -> None:
        """An inference has ended; what an Arrival does at its end."""
        if turn_began is not None:
            ended = time.monotonic()
            self._not_before = ended + min((ended - turn_began) * PAUSE_RATIO, MAX_PAUSE_S)
            self._one.release()
        with self._lock:
            self._inside -= 1
            if self._closing and not self._inside:
                self._empty.notify_all()

    def _take_turn(self) -> float:
        """Wait for the network's turn and give when it began, in monotonic seconds."""
        if not self._one.acquire(timeout=MAX_WAIT_S):
            raise Overloaded("The device's own programs come first, and leave no time.", "Try again later.")
        began = time.monotonic()
        if self._not_before > began:
            time.sleep(self._not_before - began)
            began = time.monotonic()
        return began

    def close(self, seconds: float) -> None:
        """Let in no more, and wait for what is inside, at most so long."""
        with self._lock:
            self._closing = True
            self._empty.wait_for(lambda: not self._inside, seconds)


class Arrival:
    """One inference that is inside until ``with arrival:`` is left."""

    __slots__ = ("_arrivals", "_turn_began")

    def __init__(self, arrivals: Arrivals, turn_began: float | None = None) -> None:
        self._arrivals = arrivals
        self._turn_began = turn_began

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrivals.leave(self._turn_began)

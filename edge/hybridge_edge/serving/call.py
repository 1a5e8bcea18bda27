"""One call's claim on the server: until when, from whom, and whether anybody waits for it still."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from hybridge_edge.http2.verbs import Caller

LOCAL = "local"
"""The lane of callers on the Unix socket: the device's own programs."""
NETWORK = "network"
"""The lane of what the front brings; it knows the hosts."""
DEFAULT_DEADLINE_S = 60.0
"""For calls that bring no deadline of their own."""


class Call:
    """A caller's claim, shared between the transport's threads and the one that works on it.

    Attributes:
        deadline: monotonic seconds. peer: LOCAL or NETWORK.
    """

    __slots__ = ("_cancelled", "_lock", "_on_cancel", "deadline", "peer")

    def __init__(self, timeout_s: float | None = None, peer: str = LOCAL) -> None:
        self.deadline = time.monotonic() + (DEFAULT_DEADLINE_S if timeout_s is None else timeout_s)
        self.peer = peer
        self._lock = Lock()
        self._cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def left(self) -> float:
        """Seconds until the deadline, below 0 after it."""
        return self.deadline - time.monotonic()

    def cancel(self) -> None:
        """Nobody waits any more; tells whoever works on it, once."""
        with self._lock:
            self._cancelled, told = True, self._on_cancel
            self._on_cancel = None
        if told is not None:
            told()

    def when_cancelled(self, tell: Callable[[], None] | None) -> None:
        """Have ``tell`` called at a cancellation, at once where it came already; None takes that back."""
        with self._lock:
            self._on_cancel = tell
            now = self._cancelled and tell is not None
        if now and tell is not None:
            tell()


def begin_for(caller: Caller, peer: str) -> Callable[[float | None], Call]:
    """How to make the call of what a caller asks, given the request's own limit in seconds: the shorter one counts."""

    def begin(own_s: float | None) -> Call:
        left = caller.left()
        if left is not None:
            own_s = left if own_s is None else min(left, own_s)
        call = Call(own_s, peer)
        caller.when_gone(call.cancel)
        return call

    return begin

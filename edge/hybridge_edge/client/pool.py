"""Connections and streams that are lent to one request at a time: so many at most, and a pause where one is refused."""

from __future__ import annotations

import threading
import time
from typing import Generic, Protocol, TypeVar

REFUSED_S = 30.0
"""How long another way is taken after the server had no room for one."""


class Closes(Protocol):
    """What is lent."""

    def close(self) -> None: ...


Lent = TypeVar("Lent", bound=Closes)


class Pool(Generic[Lent]):
    """At most ``most``, opened when they are needed; safe to share between threads.

    Args:
        after: so many requests go another way before one is opened.
    """

    def __init__(self, most: int, after: int = 0) -> None:
        self._most = most
        self._after = after
        self._lock = threading.Lock()
        self._idle: list[Lent] = []
        self._lent: set[Lent] = set()
        self._reserved = 0
        self._asked = 0
        self._not_before = 0.0
        self._closed = False

    @property
    def open(self) -> int:
        """How many there are, idle, lent or being opened."""
        with self._lock:
            return len(self._idle) + len(self._lent) + self._reserved

    def lent(self) -> list[Lent]:
        """Those on which something is asked now."""
        with self._lock:
            return list(self._lent)

    def take(self) -> Lent | None:
        """An idle one, to be given back or dropped; None where there is none."""
        with self._lock:
            self._asked += 1
            if not self._idle:
                return None
            one = self._idle.pop()
            self._lent.add(one)
            return one

    def reserve(self) -> bool:
        """Whether one more may be opened now: to be added then, or else ``release``d."""
        with self._lock:
            room = len(self._idle) + len(self._lent) + self._reserved < self._most and self._asked > self._after
            if not room or self._closed or time.monotonic() < self._not_before:
                return False
            self._reserved += 1
            return True

    def release(self, *, refused: bool) -> None:
        """It could not be opened; ``refused``: none is to be tried for a while."""
        with self._lock:
            self._reserved -= 1
        if refused:
            self.pause()

    def add(self, one: Lent) -> Lent:
        """What was reserved is open, and lent to who opened it."""
        with self._lock:
            self._reserved -= 1
            self._lent.add(one)
        return one

    def give_back(self, one: Lent) -> None:
        """It may be used again."""
        with self._lock:
            self._lent.discard(one)
            if not self._closed:
                self._idle.append(one)
                return
        one.close()

    def drop(self, one: Lent, *, refused: bool = False) -> None:
        """It broke, or nobody knows what would come over it; ``refused``: the server has no room for it."""
        with self._lock:
            self._lent.discard(one)
        if refused:
            self.pause()
        one.close()

    def close(self) -> None:
        """Those that are lent close when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for one in idle:
            one.close()

    def pause(self) -> None:
        """None is opened for a while."""
        with self._lock:
            self._not_before = time.monotonic() + REFUSED_S

"""Where windows come from."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Protocol

from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.window import Window

QUEUE_WINDOWS = 512
REMEMBERED_IDS = 4096
"""How many sample ids are known again; MQTT's QoS 1 may deliver a message twice, soon after the first time."""
_log = logging.getLogger(__name__)


class Source(Protocol):
    """Gives windows, one after the other."""

    def next(self, seconds: float) -> Window | None:
        """The oldest window that waits, or None where none came within ``seconds``."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """received = taken + dropped + duplicates + invalid + those in the queue."""

    received: int = 0
    taken: int = 0
    dropped: int = 0
    duplicates: int = 0
    invalid: int = 0


class WindowQueue:
    """Messages in, windows out: bounded, the oldest dropped first and counted, redeliveries recognised.

    A device that falls behind answers for what happens now, not for what happened a minute ago.
    """

    def __init__(self, limit: int = QUEUE_WINDOWS) -> None:
        self._limit = limit
        self._condition = threading.Condition()
        self._windows: deque[Window] = deque()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._received = self._taken = self._dropped = self._duplicates = self._invalid = 0

    def put(self, message: bytes) -> None:
        """Take one message; never waits, never raises for what a stranger sent."""
        try:
            window = Window.from_bytes(message)
        except InvalidDocument as error:
            with self._condition:
                self._received += 1
                self._invalid += 1
            _log.warning("A message was not taken: %s", error.message)
            return
        with self._condition:
            self._received += 1
            if window.sample_id in self._seen:
                self._duplicates += 1
                return
            self._seen[window.sample_id] = None
            if len(self._seen) > REMEMBERED_IDS:
                self._seen.popitem(last=False)
            if len(self._windows) >= self._limit:
                self._windows.popleft()
                self._dropped += 1
            self._windows.append(window)
            self._condition.notify()

    def next(self, seconds: float) -> Window | None:
        with self._condition:
            if not self._windows:
                self._condition.wait(seconds)
            if not self._windows:
                return None
            self._taken += 1
            return self._windows.popleft()

    def counters(self) -> SourceCounters:
        with self._condition:
            return SourceCounters(self._received, self._taken, self._dropped, self._duplicates, self._invalid)

    def close(self) -> None:
        with self._condition:
            self._condition.notify_all()

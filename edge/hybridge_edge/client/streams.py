"""Streams underneath single requests: no new call for each, which takes a third of a small request's time away.

A stream has one request under way at a time, so it is lent to one caller at a time; whoever finds none free makes a
plain call. One request after another of one thread, which is what device programs do, always finds it free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

STREAM_AFTER = 2
"""Plain calls of a client before it opens a stream: a program that asks once needs none."""
REFUSED_S = 30.0
"""How long another way is taken after the server had no room for a stream or a direct connection."""
LATE_S = 0.5
"""A server keeps a request's own limit; this much later whoever gave no answer is given up."""
_LOOK_S = 0.1


class Stream:
    """One open ModelStreamInfer."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._answers = method(iter(self._requests.get, None))
        self.late_at = 0.0
        """When it is to be given up, monotonic seconds; 0 while nobody waits."""
        self.late = False

    def ask(self, request: bytes, until: float) -> bytes:
        """Send a request and wait for its answer. Raises grpc.RpcError; the stream is of no use after that."""
        self.late_at = until + LATE_S
        self._requests.put(request)
        try:
            return bytes(next(self._answers))
        except StopIteration:
            raise _Ended from None
        finally:
            self.late_at = 0.0

    def give_up(self) -> None:
        self.late = True
        self._answers.cancel()

    def close(self) -> None:
        self._requests.put(None)
        self._answers.cancel()


class _Ended(grpc.RpcError):  # type: ignore[misc]  # grpcio ships no types
    """The server ended the stream without a word, as it does when it stops."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "The stream ended."


class Streams:
    """At most ``most`` streams of one connection; safe to share between threads."""

    def __init__(self, method: Callable[..., Any], most: int) -> None:
        self._method = method
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[Stream] = []
        self._open: set[Stream] = set()
        self._asked = 0
        self._not_before = 0.0
        self._closed = threading.Event()
        self._guard: threading.Thread | None = None

    def take(self) -> Stream | None:
        """A stream for one request, to be given back or dropped; None where a plain call is to be made."""
        with self._lock:
            self._asked += 1
            if self._idle:
                return self._idle.pop()
            room = len(self._open) < self._most and self._asked > STREAM_AFTER
            if not room or self._closed.is_set() or time.monotonic() < self._not_before:
                return None
            stream = Stream(self._method)
            self._open.add(stream)
            if self._guard is None:
                self._guard = threading.Thread(target=self._look_on, name="hybridge-streams", daemon=True)
                self._guard.start()
            return stream

    def give_back(self, stream: Stream) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._idle.append(stream)
                return
        stream.close()

    def drop(self, stream: Stream, *, refused: bool) -> None:
        """It broke; ``refused``: the server has no room for it."""
        with self._lock:
            self._open.discard(stream)
            if refused:
                self._not_before = time.monotonic() + REFUSED_S
        stream.close()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            idle, self._idle = self._idle, []
        for stream in idle:
            stream.close()

    def _look_on(self) -> None:
        """grpc's streams take no deadline a message: whoever waits too long is let go from here."""
        while not self._closed.wait(_LOOK_S):
            now = time.monotonic()
            with self._lock:
                late = [stream for stream in self._open if 0.0 < stream.late_at < now]
            for stream in late:
                stream.give_up()

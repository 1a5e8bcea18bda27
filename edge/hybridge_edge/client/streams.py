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

from hybridge_edge.client.answers import InferenceAnswer, answer_in_stream, error_of
from hybridge_edge.client.pool import Pool
from hybridge_edge.contract.errors import DeadlineExceeded

DEFAULT_STREAMS = 1
STREAM_AFTER = 2
"""Plain calls of a client before it opens a stream: a program that asks once needs none."""
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

    def __init__(self, method: Callable[..., Any], most: int, target: str) -> None:
        self._method = method
        self._target = target
        self._pool: Pool[Stream] = Pool(most, after=STREAM_AFTER)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._guard: threading.Thread | None = None

    @property
    def open(self) -> int:
        """How many there are."""
        return self._pool.open

    def infer(self, request: bytes, until: float, timeout_s: float) -> InferenceAnswer | None:
        """The answer; None where no stream is free or to be had, so that a plain call is to be made.

        Raises:
            HybridgeError: as the server says; Unavailable: the stream broke; DeadlineExceeded.
        """
        pool = self._pool
        stream = pool.take() or self._opened()
        if stream is None:
            return None
        try:
            response = stream.ask(request, until)
        except grpc.RpcError as error:
            refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            pool.drop(stream, refused=refused)
            if stream.late:
                raise DeadlineExceeded(f"No answer within {timeout_s:g} s.", "Allow more time.") from None
            if refused:
                return None
            raise error_of(error, self._target) from None
        except BaseException:  # KeyboardInterrupt: its answer would be the next one's
            pool.drop(stream)
            raise
        pool.give_back(stream)
        return answer_in_stream(response)

    def close(self) -> None:
        self._closed.set()
        self._pool.close()

    def _opened(self) -> Stream | None:
        if not self._pool.reserve():
            return None
        stream = self._pool.add(Stream(self._method))
        with self._lock:
            if self._guard is None:
                self._guard = threading.Thread(target=self._look_on, name="hybridge-streams", daemon=True)
                self._guard.start()
        return stream

    def _look_on(self) -> None:
        """grpc's streams take no deadline a message: whoever waits too long is let go from here."""
        while not self._closed.wait(_LOOK_S):
            now = time.monotonic()
            for stream in self._pool.lent():
                if 0.0 < stream.late_at < now:
                    stream.give_up()

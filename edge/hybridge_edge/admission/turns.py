"""One thing after the other: the thread in which everything that changes what answers is done, and who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any, ParamSpec, TypeVar

from hybridge_edge.contract.errors import Overloaded, Unavailable

MAX_PENDING = 8
"""Hand-overs that wait."""
P = ParamSpec("P")
T = TypeVar("T")


class Turns:
    """Work in the order it came. Safe to share between threads."""

    def __init__(self) -> None:
        self._pending = BoundedSemaphore(MAX_PENDING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="activate")
        self._under_way: set[Future[Any]] = set()

    def busy(self) -> bool:
        """Whether something that somebody asked for is under way or waits."""
        return bool(self._under_way)

    def bounded(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """As ``take``, for what comes from outside. Raises Overloaded too: MAX_PENDING wait already."""
        if not self._pending.acquire(blocking=False):
            raise Overloaded(f"{MAX_PENDING} hand-overs wait already.", "Try again in a minute.")
        try:
            future = self.take(work, *arguments, **named)
        except Unavailable:
            self._pending.release()
            raise
        future.add_done_callback(lambda _: self._pending.release())
        return future

    def take(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Do it in its turn. Raises Unavailable: the server stops."""
        try:
            future = self._thread.submit(work, *arguments, **named)
        except RuntimeError:
            raise Unavailable("The server stops.", "Try again when it has started.") from None
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def later(self, work: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> bool:
        """Do it in its turn, for nobody who waits. False where the server stops, and it is not done."""
        try:
            self._thread.submit(work, *arguments, **named)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Let what runs end; drop what waits."""
        self._thread.shutdown(wait=True, cancel_futures=True)

"""Threads for calls: a pool that goes on with the threads it has where the system gives no more."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

_LOG = logging.getLogger(__name__)


class Threads(ThreadPoolExecutor):
    """At most ``most`` threads named ``name``, begun as they are needed; the first one at once.

    Where the system gives no thread (pthread_create(3): memory, or the number that a user may have), the standard pool
    raises from ``submit`` with the work in its queue. In grpc that raise ends the one thread that takes calls in, and
    the server is deaf from then on. Here the work waits for a thread that is there.

    Raises:
        RuntimeError: there is not even the first thread.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self._told = False
        self.submit(int)

    def _adjust_thread_count(self) -> None:
        # The standard pool's own seam (concurrent/futures/thread.py, since 3.8): begins a thread if none idles.
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise
            if not self._told:
                self._told = True
                _LOG.error("No more threads for calls (%s); %d go on.", error, len(self._threads))

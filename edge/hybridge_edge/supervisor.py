"""``hybridge-edge serve``: a small process that keeps one serving worker alive.

Models run in the worker, so what a model can break is the worker. The supervisor starts it again, counts its deaths
against the digests whose first runs were under way, and never ends for a model's sake. It imports no grpc, no numpy.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from threading import Event
from types import FrameType

from hybridge_edge import lock, runtime, trials
from hybridge_edge.contract.errors import Unavailable
from hybridge_edge.settings import ServeSettings

_LOG = logging.getLogger(__name__)
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
HEALTHY_S = 30.0
"""A worker that lived this long starts the backoff anew."""
GRACE_S = 15.0
"""From SIGTERM to SIGKILL; below the 120 s a nucleus gives."""
_REFUSED_EXIT = (1, 2)


class Supervisor:
    """One worker at a time, until SIGTERM or SIGINT."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._stopping = Event()
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Returns the exit code: 0 after a stop, the worker's own where its very first start was refused.

        Raises:
            Conflict: another server uses the store or the runtime folder.
        """
        runtime_folder = runtime.folder()
        descriptors = [lock.take(self._settings.store / "lock", "the store")]
        try:
            descriptors.append(lock.take(runtime_folder / "server.lock", "the runtime folder"))
            # The worker reads this pipe's end: end of file means that its supervisor is gone.
            alive, held = os.pipe()
            descriptors += [alive, held]
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            signal.signal(signal.SIGALRM, self._kill)
            trials.count_crash(self._settings.store)  # of an earlier life, ended by a power cut or worse
            return self._supervise(alive, tuple(descriptors[:3]))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _supervise(self, alive: int, inherited: tuple[int, ...]) -> int:
        backoff, was_ready = FIRST_BACKOFF_S, False
        while not self._stopping.is_set():
            started = time.monotonic()
            code = self._run_worker(alive, inherited)
            if self._stopping.is_set():
                break
            was_ready = was_ready or self._was_ready()
            if not was_ready and code in _REFUSED_EXIT:
                return code  # it said why; nothing has served yet, so nobody loses anything
            trials.count_crash(self._settings.store)
            if time.monotonic() - started > HEALTHY_S:
                backoff = FIRST_BACKOFF_S
            _LOG.error("The worker ended with %d; it starts again in %.1f s.", code, backoff)
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF_S)
        return 0

    def _run_worker(self, alive: int, inherited: tuple[int, ...]) -> int:
        command = [sys.executable, "-m", "hybridge_edge.worker", str(alive), self._settings.to_json().decode()]
        self._worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited)
        if self._stopping.is_set():  # the signal came between the check and here
            self._stop(signal.SIGTERM, None)
        return self._worker.wait()

    def _was_ready(self) -> bool:
        assert self._worker is not None
        try:
            return runtime.Endpoint.read(runtime.folder()).pid == self._worker.pid
        except Unavailable:
            return False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()
        if self._worker is not None and self._worker.returncode is None:
            self._worker.send_signal(signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        if self._worker is not None and self._worker.returncode is None:
            self._worker.kill()

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridge_edge import lock, runtime, trials
from hybridge_edge.contract.errors import InvalidDocument, Unavailable
from hybridge_edge.front.process import Front
from hybridge_edge.front.tls_status import STATUS_FILE
from hybridge_edge.live_settings import Told
from hybridge_edge.observe import logs
from hybridge_edge.settings import ServeSettings, Source

_LOG = logging.getLogger(__name__)
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
HEALTHY_S = 30.0
"""A worker that lived this long starts the backoff anew."""
GRACE_S = 15.0
"""From SIGTERM to SIGKILL; below the 120 s a nucleus gives."""
LOOK_S = 1.0
"""How often the worker's pulse is felt."""
WORKER_ENVIRONMENT = {
    # mallopt(3): what a batch took goes back to the system, and not into the heap of whichever thread ran it.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
    # Whoever sets one of these ends their growing: at the default of 128 KiB each large request's pages would be given
    # back and taken anew.
    "MALLOC_TRIM_THRESHOLD_": str(4 * 1024 * 1024),
}
"""For the worker, where nobody says otherwise."""
_REFUSED_EXIT = (1, 2)
_STOPS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*_STOPS, signal.SIGCHLD)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Keep the supervisor's signals for its ``sigwaitinfo``; the worker inherits this and waits for them too.

    Entered before any thread starts: a thread that was started earlier would take a signal in the supervisor's stead,
    and either end the process without its worker or let the worker's death pass unnoticed.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        while signal.sigtimedwait(_SIGNALS, 0) is not None:
            pass  # a second stop, come while the first one was obeyed
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Supervisor:
    """One worker at a time, until SIGTERM or SIGINT.

    Signals are blocked (see ``blocked_signals``) and waited for: a handler that runs just before a blocking call would
    leave it blocked.

    Args:
        settings: as they were read from ``source``; the worker follows a deployment's later ones, and tells.
    """

    def __init__(self, settings: ServeSettings, source: Source) -> None:
        self._settings = settings
        self._source = source
        self._stopping = False
        self._front: Front | None = None

    def run(self) -> int:
        """Returns the exit code: 0 after a stop, the worker's own where its very first start was refused.

        Raises:
            Conflict: another server uses the store or the runtime folder. UsageError, Unavailable: see ``Front``.
        """
        runtime_folder = runtime.folder()
        descriptors = [lock.take(self._settings.store / "lock", "the store")]
        try:
            descriptors.append(lock.take(runtime_folder / "server.lock", "the runtime folder"))
            # The worker reads this pipe's end: end of file means that its supervisor is gone.
            alive, held = os.pipe()
            descriptors += [alive, held]
            (runtime_folder / STATUS_FILE).unlink(missing_ok=True)  # of an earlier life, which may have had TLS
            if self._settings.tcp:
                behind = runtime_folder / runtime.NETWORK_SOCKET
                self._front = Front(self._settings.tcp, behind, alive, self._settings.tls)
            self._told = Told(runtime_folder)
            trials.count_crash(self._settings.store)  # of an earlier life, ended by a power cut or worse
            return self._supervise(alive, tuple(descriptors[:3]))
        finally:
            if self._front is not None:
                self._front.stop()
            for descriptor in descriptors:
                os.close(descriptor)

    def _supervise(self, alive: int, inherited: tuple[int, ...]) -> int:
        backoff, was_ready = FIRST_BACKOFF_S, False
        while not self._stopping:
            started = time.monotonic()
            self._follow()
            told = (self._settings.to_json().decode(), self._source.to_json().decode())
            tcp = self._front.tcp if self._front is not None else ""
            command = [sys.executable, "-m", "hybridge_edge.worker", str(alive), tcp, *told]
            environment = {**WORKER_ENVIRONMENT, **os.environ}
            worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited, env=environment)
            code = self._wait_for(worker)
            if self._stopping:
                break
            was_ready = was_ready or _was_ready(worker)
            if not was_ready and code in _REFUSED_EXIT:
                return code  # it said why; nothing has served yet, so nobody loses anything
            trials.count_crash(self._settings.store)
            if time.monotonic() - started > HEALTHY_S:
                backoff = FIRST_BACKOFF_S
            _LOG.error("The worker ended with %d; it starts again in %.1f s.", code, backoff)
            self._stopping = signal.sigtimedwait(_STOPS, backoff) is not None
            backoff = min(backoff * 2, MAX_BACKOFF_S)
        return 0

    def _wait_for(self, worker: subprocess.Popen[bytes]) -> int:
        """Until the worker has ended; passes a stop on to it, and ends it where it takes longer than GRACE_S."""
        kill_at = 0.0
        pulse = _Pulse(self._settings.store)
        while (code := worker.poll()) is None:
            if not self._stopping:
                if self._front is not None:
                    self._front.keep()
                came = signal.sigtimedwait(_SIGNALS, LOOK_S)
                if came is not None and came.si_signo in _STOPS:
                    self._stopping, kill_at = True, time.monotonic() + GRACE_S
                    worker.terminate()
                elif not pulse.is_felt(self._follow().pulse_seconds):
                    _LOG.error("The worker shows no life for %.0f s and is killed.", self._settings.pulse_seconds)
                    worker.kill()
            elif (left := kill_at - time.monotonic()) > 0:
                signal.sigtimedwait(_SIGNALS, left)
            else:
                _LOG.error("The worker did not end in %.0f s and is killed.", GRACE_S)
                worker.kill()
                worker.wait()
        return code

    def _follow(self) -> ServeSettings:
        """Go by what the worker has found in the deployment's configuration since."""
        told = self._told.news()
        if told is not None:
            self._settings = self._settings.following(told)
            logs.configure(self._settings.log_format, self._settings.log_level)
            if self._front is not None:
                self._front.follow(self._settings.tls)
        return self._settings


class _Pulse:
    """The worker's beat, as it was last felt to change."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._last = trials.pulse(store)
        self._changed = time.monotonic()

    def is_felt(self, limit_s: float) -> bool:
        """Whether it changed within so many seconds."""
        now, beat = time.monotonic(), trials.pulse(self._store)
        if beat != self._last:
            self._last, self._changed = beat, now
        return now - self._changed < limit_s


def _was_ready(worker: subprocess.Popen[bytes]) -> bool:
    try:
        return runtime.Endpoint.read(runtime.folder()).pid == worker.pid
    except (Unavailable, InvalidDocument):
        return False

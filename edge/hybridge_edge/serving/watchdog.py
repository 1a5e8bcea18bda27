"""Ends runs that take too long, and runs that nobody waits for any more.

A run over its limit is asked to stop (onnxruntime looks between two operators) and counts as a strike against its
model; after STRIKES in a row the model is not trusted with another. A run that does not stop within GRACE_S is beyond
the reach of this process: then the process must go, and the supervisor starts a new one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from hybridge_edge.engine import Stop
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.residents import Resident

_LOG = logging.getLogger(__name__)
POLL_S = 0.05
"""How often it looks: a limit is kept within this."""
STRIKES = 3
GRACE_S = 5.0


class Run:
    """One run under way, of one request or several together."""

    __slots__ = ("asked_at", "calls", "limit_s", "overran", "resident", "started", "stop")

    def __init__(self, resident: Resident, calls: Sequence[Call], limit_s: float) -> None:
        self.resident = resident
        self.calls = calls
        self.limit_s = limit_s
        self.started = time.monotonic()
        self.stop = Stop()
        self.overran = False
        self.asked_at = 0.0


def unwatched() -> Watchdog:
    """A watchdog that is never started: nothing is ended."""
    return Watchdog(float("inf"), lambda resident, reason: None, lambda resident: None)


class Watchdog:
    """Looks at what runs, from a thread of its own.

    Args:
        limit_s: of a run whose package states none, seconds.
        hung: told of a resident that overran STRIKES times in a row, with a sentence; must not block.
        stuck: told of one that does not stop; ends this process.
    """

    def __init__(
        self, limit_s: float, hung: Callable[[Resident, str], None], stuck: Callable[[Resident], None]
    ) -> None:
        self.limit_s = limit_s
        """Seconds, from the next run on."""
        self._hung = hung
        self._stuck = stuck
        self._lock = Lock()
        self._runs: set[Run] = set()
        self._closing = Event()
        self._thread = Thread(target=self._look_on, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def begin(self, resident: Resident, calls: Sequence[Call]) -> Run:
        """A run begins, for these callers; () is work beside the requests, for which somebody always waits."""
        run = Run(resident, calls, resident.manifest.budgets.run_ms / 1000 or self.limit_s)
        with self._lock:
            self._runs.add(run)
        return run

    def end(self, run: Run) -> None:
        """It ended, by itself or not."""
        with self._lock:
            self._runs.discard(run)
        if not run.stop.asked:
            run.resident.overruns = 0

    def _look_on(self) -> None:
        while not self._closing.wait(POLL_S):
            with self._lock:
                runs = tuple(self._runs)
            for run in runs:
                self._look_at(run, time.monotonic())

    def _look_at(self, run: Run, now: float) -> None:
        if run.stop.asked:
            if now - run.asked_at > GRACE_S:
                self._stuck(run.resident)
            return
        took = now - run.started
        run.overran = took > run.limit_s
        if run.overran:
            self._strike(run.resident, took)
        elif not run.calls or any(not call.cancelled and call.deadline > now for call in run.calls):
            return
        run.asked_at = now
        run.stop.ask()

    def _strike(self, resident: Resident, took: float) -> None:
        manifest = resident.manifest
        _LOG.error("A run of %s %s is stopped after %.1f s.", manifest.name, manifest.version, took)
        resident.overruns += 1
        if resident.overruns == STRIKES:
            self._hung(resident, f"{STRIKES} runs in a row took longer than they may.")

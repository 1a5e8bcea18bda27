"""The worker's signs of life: a pulse for its supervisor, and an eye on its own memory.

A process that takes more memory than the device can give is ended by the kernel, and not always it. So the worker goes
by itself before that, its requests answered, and its supervisor starts a new one.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable
from threading import Event, Thread

from hybridge_edge import trials
from hybridge_edge.contract.errors import SpoolFull
from hybridge_edge.ledger import UNKNOWN_VERSION, Installed
from hybridge_edge.store import Store

_LOG = logging.getLogger(__name__)
BEAT_S = 0.5
HEALTHY_S = 600.0
"""A worker that lived this long forgives its models their earlier deaths."""
MARGIN_MEGABYTES = 128
"""Over what its models may hold: requests, answers, what the runtime keeps for later."""
ADDRESS_MARGIN_MEGABYTES = 640
"""Over the same for memory that is only asked for: stacks of threads count whole."""
MEMORY_EXIT = 75
"""The worker's exit code where it went for want of memory (EX_TEMPFAIL of sysexits.h)."""
STUCK_EXIT = 76
"""The worker's exit code where a run could not be stopped."""
_MEGABYTE = 1024 * 1024


class Vitals:
    """Beats from a thread of its own until closed.

    Args:
        memory_megabytes: what loaded models may hold, 0 for no limit; what the process holds now is its own.
        exceeded: called once, from that thread, with a sentence; has the process drained and ended.
    """

    def __init__(self, store: Store, memory_megabytes: int, exceeded: Callable[[str], None]) -> None:
        self._store = store
        self._exceeded = exceeded
        self._limit = resident_bytes() + (memory_megabytes + MARGIN_MEGABYTES) * _MEGABYTE if memory_megabytes else 0
        self._closing = Event()
        self._thread = Thread(target=self._run, name="vitals", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        started, forgiven, told = time.monotonic(), False, False
        while True:
            self._store.table.beat()
            if not forgiven and time.monotonic() - started > HEALTHY_S:
                forgiven = True
                self._forgive()
            if self._limit and not told and (held := resident_bytes()) > self._limit:
                told = True
                self._exceeded(
                    f"The server holds {held // _MEGABYTE} MiB; {self._limit // _MEGABYTE} MiB are its limit."
                )
            if self._closing.wait(BEAT_S):
                return

    def _forgive(self) -> None:
        for record in self._store.records().values():
            if record.active is not None and record.trusted:
                try:
                    trials.forget(self._store.folder, record.active.digest)
                except OSError as error:
                    _LOG.warning("Deaths of %s are not forgiven: %s", record.model, error)


def resident_bytes() -> int:
    """What this process holds in memory (proc_pid_statm(5))."""
    with open("/proc/self/statm") as file:  # noqa: PTH123  read twice a second
        return int(file.read().split()[1]) * resource.getpagesize()


def bound_memory(memory_megabytes: int) -> None:
    """Have the kernel refuse memory far beyond the limit: a request for too much is an error, not the device's end.

    RLIMIT_DATA and not RLIMIT_AS: what a GPU's driver maps is no data (getrlimit(2)).
    """
    if not memory_megabytes:
        return
    with open("/proc/self/status") as file:  # noqa: PTH123
        held = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    limit = held + (memory_megabytes + ADDRESS_MARGIN_MEGABYTES) * _MEGABYTE
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def blame_the_only_one(store: Store) -> None:
    """Memory ran out: where one model alone is active here, that counts as a death of its; of a shadow first."""
    records = store.records().values()
    active = [record.active for record in records if record.active is not None]
    if shadows := [record.wanted for record in records if record.shadow and record.wanted is not None]:
        active = [Installed(one.digest, UNKNOWN_VERSION) for one in shadows]
    if len(active) != 1:
        _LOG.error("%d models share the memory; none is blamed.", len(active))
        return
    try:
        trials.blame(store.folder, active[0].digest)
    except (SpoolFull, OSError) as error:
        _LOG.error("That %s took too much memory is not remembered: %s", active[0].version, error)


def end_now(reason: str) -> None:
    """End this process as a crash would: what it does is beyond its own reach."""
    _LOG.critical("%s The process ends.", reason)
    os._exit(STUCK_EXIT)

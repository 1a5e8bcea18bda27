"""Everything that metrics are made of, read at one moment."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from hybridge_edge import runtime, spool
from hybridge_edge.capture import CaptureCounters
from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.front.tls_status import TlsStatus
from hybridge_edge.serving.sequences import SequenceCounts
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.shadow_tally import ShadowReading
from hybridge_edge.serving.standing import standing
from hybridge_edge.serving.statistics import ModelStatistics
from hybridge_edge.store import Store
from hybridge_edge.uplink_status import UplinkStatus


@dataclass(frozen=True, slots=True)
class Process:
    """The serving process: memory in bytes, seconds of CPU since its start, its start in seconds since 1970."""

    resident_bytes: int = 0
    cpu_seconds: float = 0.0
    started: float = 0.0
    open_files: int = 0

    @classmethod
    def read(cls, started: float) -> Process:
        """This process now; zeros where /proc is not there."""
        spent = os.times()
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # the listing is one itself
        except (OSError, IndexError, ValueError):
            pages = files = 0
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), spent.user + spent.system, started, files)


@dataclass(frozen=True, slots=True)
class Readings:
    """One moment of the server.

    Attributes:
        at: seconds since 1970. invalid: (model, requests that were their callers' fault).
        capture: None where nothing is captured. spool_records: that wait for the uplink.
        shadows: what each shadow did, and why what was chosen for it was not compared, by reason.
        returned: samples and labels that the uplink brought to the cloud in the spool's life. waiting: requests, now.
        tls: of the network, None where TCP is off or plain.
    """

    version: str
    at: float
    process: Process
    models: tuple[ModelReport, ...] = ()
    statistics: tuple[ModelStatistics, ...] = ()
    invalid: tuple[tuple[str, int], ...] = ()
    capture: CaptureCounters | None = None
    spool_records: int = 0
    returned: int = 0
    waiting: int = 0
    sequences: SequenceCounts = field(default_factory=SequenceCounts)
    tls: TlsStatus | None = None
    shadows: tuple[tuple[ShadowReading, tuple[tuple[str, int], ...]], ...] = ()


class Reader:
    """Reads a running server; safe to share between threads.

    Args:
        spool_folder: whose cursor says how many records wait. version: of what is installed.
    """

    def __init__(self, service: Service, store: Store, spool_folder: Path, version: str) -> None:
        self._service = service
        self._store = store
        self._spool = spool_folder
        self._version = version
        self._started = time.time()

    def read(self) -> Readings:
        service, models = self._service, tuple(self._store.records())
        capture = service.capture.counters() if service.capture is not None else None
        passed = max(spool.Cursor.read(self._spool).ordinal, 0) if capture is not None else 0
        return Readings(
            version=self._version,
            at=time.time(),
            process=Process.read(self._started),
            models=standing(self._store, service),
            statistics=service.statistics.read(),
            invalid=tuple((model, service.counters(model).invalid) for model in sorted(models)),
            capture=capture,
            spool_records=max(capture.spool_records - passed, 0) if capture is not None else 0,
            returned=_returned(),
            waiting=service.gate.waiting,
            sequences=service.sequences.counts(),
            tls=_tls(),
            shadows=tuple((one, service.shadowing.dropped(one.model)) for one in service.shadowing.readings()),
        )


def _tls() -> TlsStatus | None:
    try:
        return TlsStatus.read(runtime.folder())
    except HybridgeError:  # as below
        return None


def _returned() -> int:
    try:
        return UplinkStatus.read(runtime.folder()).returned
    except HybridgeError:  # somebody took the runtime folder away: metrics go on
        return 0

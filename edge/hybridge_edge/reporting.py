"""The device's report: what it runs, sent to its named shadow on change and every quarter of an hour.

The device's word is what a rollout is judged by, so its sequence grows over restarts and the newest state is sent until
the nucleus takes it. Without a nucleus nothing is sent, and a single line in the log says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_edge import durable, greengrass, runtime
from hybridge_edge.backoff import Backoff
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.greengrass import Nucleus
from hybridge_edge.uplink_status import UplinkStatus

PERIOD_SECONDS = 15 * 60.0
SETTLE_SECONDS = 0.2
"""Changes that come this close together make one report."""
RETRY_SECONDS = 60.0
CLOSE_SECONDS = 15.0
SEQUENCE_FILE = "report.json"
SEQUENCE_BLOCK = 64
"""Sequence numbers taken by one write to the disk; a restart skips the rest of its block."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the server knows of itself: its models, samples captured in the spool's life, the spool's size in bytes."""

    runtime_version: str
    models: tuple[ModelReport, ...]
    captured: int = 0
    spool_bytes: int = 0


class Reporter:
    """Sends reports in a thread of its own.

    Args:
        thing: this device. snapshot: called in the reporter's thread whenever a report is due; may not block for long.
        folder: where the sequence is kept, over restarts. connect: gives a nucleus, or None where there is none.
    """

    def __init__(
        self,
        thing: str,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        *,
        connect: Callable[[], Nucleus | None] = greengrass.connect,
    ) -> None:
        self._thing = names.thing_name(thing)
        self._snapshot = snapshot
        self._path = folder / SEQUENCE_FILE
        self._connect = connect
        self._nucleus: Nucleus | None = None
        self._sequence = self._taken = _read_sequence(self._path)
        self._due = threading.Event()
        self._due.set()
        self._closing = threading.Event()
        self._backoff = Backoff(RETRY_SECONDS)
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="reporting", daemon=True)

    def start(self) -> None:
        """Send the first report, and go on."""
        if not greengrass.has_nucleus() and self._connect is greengrass.connect:
            _log.info("No Greengrass nucleus: this device reports to nobody.")
            return
        self._thread.start()

    def changed(self) -> None:
        """Something that a report says has changed; never waits."""
        self._due.set()

    def close(self) -> None:
        """Send what is due, in one attempt, and stop."""
        self._closing.set()
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while True:
                self._due.wait(PERIOD_SECONDS)
                self._closing.wait(SETTLE_SECONDS)
                closing = self._closing.is_set()
                self._due.clear()
                if self._send():
                    self._backoff.succeeded()
                elif not closing:
                    self._closing.wait(self._backoff.wait())
                    self._due.set()
                if closing:
                    return
        finally:
            self._disconnect()

    def _send(self) -> bool:
        try:
            if self._nucleus is None:
                self._nucleus = self._connect()
            if self._nucleus is None:
                return True
            report = self._report()
            self._nucleus.publish_to_iot_core(names.shadow_update_topic(self._thing), report.to_shadow_update())
        except (HybridgeError, OSError) as error:
            if str(error) != self._error:
                _log.warning("The report was not sent: %s", error)
            self._error = str(error)
            self._disconnect()
            return False
        self._error = ""
        return True

    def _report(self) -> DeviceReport:
        snapshot = self._snapshot()
        report = DeviceReport(
            thing=self._thing,
            sequence=self._next_sequence(),
            runtime_version=snapshot.runtime_version,
            models=snapshot.models,
            captured=snapshot.captured,
            returned=UplinkStatus.read(runtime.folder()).returned,
            spool_bytes=snapshot.spool_bytes,
        )
        return fitting(report)

    def _next_sequence(self) -> int:
        if self._sequence >= self._taken:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self._path, canonical({"sequence": self._sequence + SEQUENCE_BLOCK}))
            self._taken = self._sequence + SEQUENCE_BLOCK
        self._sequence += 1
        return self._sequence

    def _disconnect(self) -> None:
        if self._nucleus is not None:
            self._nucleus.close()
            self._nucleus = None


def fitting(report: DeviceReport) -> DeviceReport:
    """The report within its limit: reasons and providers go first, then the models at the end, said in the log."""
    try:
        report.to_bytes()
    except InvalidDocument:
        shorter = tuple(replace(model, reason=model.reason[:40], provider="") for model in report.models)
        if shorter == report.models:
            _log.warning("The report has no room for model %s.", report.models[-1].model)
            shorter = shorter[:-1]
        return fitting(replace(report, models=shorter))
    return report


def _read_sequence(path: Path) -> int:
    """The largest number that may have been used; where it is lost, the clock in milliseconds stands above it."""
    try:
        reader = parse(path.read_bytes(), "report's sequence", 4096)
        sequence = reader.integer("sequence")
        reader.close()
    except (OSError, InvalidDocument):
        return time.time_ns() // 1_000_000
    return sequence

"""The device's report: what it runs, sent to its named shadow on change and every quarter of an hour, and often while a
rollout judges what this device runs, or has just changed the server itself. Durations go with it, as telemetry.

The device's word is what a rollout is judged by, so its sequence grows over restarts and the newest state is sent until
the nucleus takes it. Without a nucleus nothing is sent, and a single line in the log says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_edge import durable, greengrass, runtime
from hybridge_edge.backoff import Backoff
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, Unavailable
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.contract.telemetry import Beside, Telemetry
from hybridge_edge.greengrass import Nucleus
from hybridge_edge.uplink_status import UplinkStatus

PERIOD_SECONDS = 15 * 60.0
FRESH_SECONDS = 10 * 60.0
"""How long a server that has just started reports as often as in a rollout: who changed it wants to know."""
SETTLE_SECONDS = 0.2
"""Changes that come this close together make one report."""
RETRY_SECONDS = 60.0
CLOSE_SECONDS = 15.0
SEQUENCE_FILE = "report.json"
SEQUENCE_BLOCK = 64
"""Sequence numbers taken by one write to the disk; a restart skips the rest of its block."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Durations:
    """How long a model's answers took and how sure it was since it answers, ``seconds`` ago: contract.telemetry."""

    model: str
    version: str
    digest: str
    rollout: str
    epoch: int
    seconds: int
    latency: Sketch
    scores: ScoreSketch | None = None
    beside: Beside | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the server knows of itself: its models, samples captured in the spool's life, the spool's size in bytes.

    ``evaluating`` while a rollout judges one of the models.
    """

    runtime_version: str
    models: tuple[ModelReport, ...]
    captured: int = 0
    spool_bytes: int = 0
    evaluating: bool = False
    durations: tuple[Durations, ...] = ()


class Reporter:
    """Sends reports in a thread of its own.

    Args:
        thing: this device. snapshot: called in the reporter's thread whenever a report is due; may not block for long.
        folder: where the sequence is kept, over restarts. connect: gives a nucleus, or None where there is none.
        evaluating_seconds: between two reports while a rollout judges. fresh_seconds: from the start, as often as that.
    """

    def __init__(
        self,
        thing: str,
        snapshot: Callable[[], Snapshot],
        folder: Path,
        *,
        connect: Callable[[], Nucleus | None] = greengrass.connect,
        evaluating_seconds: float,
        fresh_seconds: float = FRESH_SECONDS,
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
        self._error = self._telemetry_error = ""
        self.evaluating_seconds = evaluating_seconds
        """Between two reports while a rollout judges, from the next report on."""
        self._fresh_until = time.monotonic() + fresh_seconds
        self._period = PERIOD_SECONDS
        self._told: dict[str, tuple[str, int]] = {}
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
                self._due.wait(self._period)
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
            snapshot = self._snapshot()
            often = snapshot.evaluating or time.monotonic() < self._fresh_until
            self._period = self.evaluating_seconds if often else PERIOD_SECONDS
            report = self._report(snapshot)
            self._nucleus.publish_to_iot_core(names.shadow_update_topic(self._thing), report.to_shadow_update())
            self._send_durations(self._nucleus, snapshot.durations)
        except (HybridgeError, OSError) as error:
            if str(error) != self._error:
                _log.warning("The report was not sent: %s", error)
            self._error = str(error)
            self._disconnect()
            return False
        self._error = ""
        return True

    def _send_durations(self, nucleus: Nucleus, durations: tuple[Durations, ...]) -> None:
        """Those of models that answered since the last time; telemetry that is refused holds no report back."""
        for one in durations:
            told = (one.digest, one.latency.count)
            key = f"{one.model} beside" if one.beside is not None else one.model
            if self._told.get(key) == told:
                continue
            message = Telemetry(
                self._thing, self._sequence, one.model, one.version, one.digest, one.rollout, one.epoch, one.seconds,
                one.latency, one.scores, one.beside,
            )  # fmt: skip
            try:
                nucleus.publish_to_iot_core(names.telemetry_topic(self._thing), _fitting_bytes(message))
            except Unavailable:
                raise
            except HybridgeError as error:
                if str(error) != self._telemetry_error:
                    _log.warning("Telemetry was not sent: %s", error)
                self._telemetry_error = str(error)
                return
            self._told[key] = told

    def _report(self, snapshot: Snapshot) -> DeviceReport:
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


def _fitting_bytes(telemetry: Telemetry) -> bytes:
    """The message, without its scores where they would not fit beside the durations."""
    try:
        return telemetry.to_bytes()
    except InvalidDocument:
        beside = None if telemetry.beside is None else replace(telemetry.beside, scores=None)
        return replace(telemetry, scores=None, beside=beside).to_bytes()


def fitting(report: DeviceReport) -> DeviceReport:
    """The report within its limit.

    What goes first: reasons and providers; then evidence, the longest standing hand-over's first, so that what a
    rollout judges now stays; then the models at the end. What is left out is said in the log.
    """
    for shorter in _shorter(report):
        try:
            shorter.to_bytes()
        except InvalidDocument:
            continue
        return shorter
    return replace(report, models=())


def _shorter(report: DeviceReport) -> Iterator[DeviceReport]:
    yield report
    report = replace(
        report,
        models=tuple(
            replace(one, reason=one.reason[:40], provider="", degraded=one.degraded[:40]) for one in report.models
        ),
    )
    yield report
    for epoch in sorted({one.epoch for one in report.models if one.evidence is not None}):
        _log.warning("The report has no room for the evidence of models at epoch %d.", epoch)
        left = tuple(replace(one, evidence=None) if one.epoch == epoch else one for one in report.models)
        report = replace(report, models=left)
        yield report
    while report.models:
        _log.warning("The report has no room for model %s.", report.models[-1].model)
        report = replace(report, models=report.models[:-1])
        yield report


def _read_sequence(path: Path) -> int:
    """The largest number that may have been used; where it is lost, the clock in milliseconds stands above it."""
    try:
        reader = parse(path.read_bytes(), "report's sequence", 4096)
        sequence = reader.integer("sequence")
        reader.close()
    except (OSError, InvalidDocument):
        return time.time_ns() // 1_000_000
    return sequence

"""Metrics as CloudWatch reads them out of a log: its embedded metric format, one JSON object a line.

Limits of the format (Amazon CloudWatch User Guide, "Specification: Embedded metric format"): 100 metrics a directive,
100 values a metric, 30 dimensions a set, 1 MB a line; a timestamp in milliseconds. Counts are of the time since the
line before, because CloudWatch adds up what comes; durations and confidences are up to VALUES values at even steps
through the distribution, so that percentiles over many devices are right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import TextIO

from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.observe.readings import Readings
from hybridge_edge.serving.shadow_tally import ShadowReading
from hybridge_edge.serving.statistics import ModelStatistics

NAMESPACE = "Hybridge"
VALUES = 50
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric of a line: a number, or some."""

    name: str
    unit: str
    value: float | tuple[float, ...]


def line(dimensions: dict[str, str], measures: tuple[Measure, ...], at: float, properties: dict[str, str]) -> str:
    """One line, without its end.

    Args:
        dimensions: by which CloudWatch keeps the metrics apart. at: seconds since 1970.
        properties: what the log's reader also wants to know.
    """
    told = [one for one in measures if one.value != ()]
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": one.name, "Unit": one.unit} for one in told],
    }
    document = {
        "_aws": {"Timestamp": int(at * 1000), "CloudWatchMetrics": [directive]},
        **properties,
        **dimensions,
        **{one.name: one.value for one in told},
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


class EmbeddedLines:
    """Turns readings into lines, each of what came since the one before."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._before: dict[tuple[str, str], ModelStatistics] = {}
        self._dropped = 0
        self._shadows: dict[str, tuple[ShadowReading, int]] = {}

    def lines(self, readings: Readings) -> tuple[str, ...]:
        """A line for each version of each model, one for each shadow, and one for the device."""
        found = []
        for now in readings.statistics:
            properties = {"Device": self._device, "Provider": now.provider}
            measures = _since(now, self._before.get((now.model, now.version)))
            found.append(line({"Model": now.model, "Version": now.version}, measures, readings.at, properties))
        self._before = {(one.model, one.version): one for one in readings.statistics}
        for shadow, lost in readings.shadows:
            dropped = sum(count for _, count in lost)
            measures = _shadow_since(shadow, dropped, self._shadows.get(shadow.model))
            properties = {"Device": self._device, "Against": shadow.against_version, "Provider": shadow.provider}
            found.append(
                line({"Model": shadow.model, "ShadowVersion": shadow.version}, measures, readings.at, properties)
            )
        self._shadows = {one.model: (one, sum(count for _, count in lost)) for one, lost in readings.shadows}
        found.append(line({"Device": self._device}, self._of_device(readings), readings.at, {}))
        return tuple(found)

    def _of_device(self, readings: Readings) -> tuple[Measure, ...]:
        capture = readings.capture
        dropped = capture.dropped if capture is not None else 0
        since, self._dropped = max(dropped - self._dropped, 0), dropped
        return (
            Measure("ResidentMemory", "Bytes", readings.process.resident_bytes),
            Measure("SpoolRecords", "Count", readings.spool_records),
            Measure("SpoolSize", "Bytes", capture.spool_bytes if capture is not None else 0),
            Measure("SamplesDropped", "Count", since),
            Measure("ModelsDegraded", "Count", sum(bool(one.degraded) for one in readings.models)),
        )


class EmbeddedWriter:
    """Writes the lines every ``seconds`` to a stream, in a thread of its own; once more at the end."""

    def __init__(self, seconds: float, device: str, read: Callable[[], Readings], stream: TextIO) -> None:
        self._seconds = seconds
        self._lines = EmbeddedLines(device)
        self._read = read
        self._stream = stream
        self._closing = Event()
        self._thread = Thread(target=self._run, name="embedded-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        due = time.monotonic()
        closing = False
        while not closing:
            due = max(due + self._seconds, time.monotonic())
            closing = self._closing.wait(due - time.monotonic())
            try:
                for one in self._lines.lines(self._read()):
                    self._stream.write(one + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody reads our output any more


def _since(now: ModelStatistics, before: ModelStatistics | None) -> tuple[Measure, ...]:
    """What a version did since; a version that was forgotten meanwhile begins anew."""
    if before is not None and before.requests > now.requests:
        before = None
    requests = now.requests - (before.requests if before else 0)
    runs = now.executions - (before.executions if before else 0)
    rows = now.rows - (before.rows if before else 0)
    failed = sum(count for _, count in now.failures) - (sum(count for _, count in before.failures) if before else 0)
    latency = Sketch(_more(now.latency.counts, before.latency.counts if before else ()))
    scores = ScoreSketch(_more(now.scores.counts, before.scores.counts if before else ()))
    shares = [(step + 0.5) / VALUES for step in range(VALUES)]

    def mean(name: str, total: int, earlier: int) -> Measure:
        return Measure(name, "Microseconds", (round((total - earlier) / requests, 1),) if requests else ())

    return (
        Measure("Requests", "Count", requests),
        Measure("Failures", "Count", failed),
        Measure("Guarded", "Count", now.guarded - (before.guarded if before else 0)),
        Measure("Rows", "Count", rows),
        Measure("Latency", "Microseconds", tuple(latency.quantile(share) for share in shares) if latency.count else ()),
        mean("QueueTime", now.queue_us, before.queue_us if before else 0),
        mean("CopyTime", now.copy_us, before.copy_us if before else 0),
        mean("FeaturesTime", now.features_us, before.features_us if before else 0),
        mean("InferTime", now.infer_us, before.infer_us if before else 0),
        Measure("RowsPerRun", "Count", (round(rows / runs, 3),) if runs > 0 else ()),
        Measure(
            "Confidence", "None", tuple(round(scores.quantile(share), 4) for share in shares) if scores.count else ()
        ),
    )


def _shadow_since(now: ShadowReading, dropped: int, earlier: tuple[ShadowReading, int] | None) -> tuple[Measure, ...]:
    """What a shadow did since; one that stands beside another version, or stood there anew, begins anew."""
    same = earlier is not None and (earlier[0].digest, earlier[0].against) == (now.digest, now.against)
    if earlier is not None and same and earlier[0].runs <= now.runs:
        before, dropped_before = earlier
    else:
        before, dropped_before = None, 0
    latency = Sketch(_more(now.latency.counts, before.latency.counts if before else ()))
    scores = ScoreSketch(_more(now.scores.counts, before.scores.counts if before else ()))
    first = ScoreSketch(_more(now.first_scores.counts, before.first_scores.counts if before else ()))
    shares = [(step + 0.5) / VALUES for step in range(VALUES)]
    return (
        Measure("ShadowRuns", "Count", now.runs - (before.runs if before else 0)),
        Measure("ShadowFailures", "Count", now.failed - (before.failed if before else 0)),
        Measure("ShadowGuarded", "Count", now.guarded - (before.guarded if before else 0)),
        Measure("ShadowCompared", "Count", now.rows - (before.rows if before else 0)),
        Measure("ShadowDisagreed", "Count", now.disagreed - (before.disagreed if before else 0)),
        Measure("ShadowDropped", "Count", max(dropped - dropped_before, 0)),
        Measure(
            "ShadowLatency",
            "Microseconds",
            tuple(latency.quantile(share) for share in shares) if latency.count else (),
        ),
        Measure("ShadowScoreShift", "None", (round(scores.apart(first), 4),) if scores.count and first.count else ()),
    )


def _more(now: tuple[tuple[int, int], ...], before: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """The counts of ``now`` that are not in ``before``."""
    earlier = dict(before)
    return [(bucket, count - earlier.get(bucket, 0)) for bucket, count in now if count > earlier.get(bucket, 0)]

"""The metrics of the server, by Prometheus' conventions: base units, ``_total`` for counters, histograms that add up.

Histograms have the same bounds on every device, so that the sum over a fleet is the fleet's histogram. The bounds of
durations are edges of the sketch they are read from: no duration is counted on the wrong side of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hybridge_edge.contract import scores, sketch
from hybridge_edge.front.tls_status import TlsStatus
from hybridge_edge.observe.readings import Readings
from hybridge_edge.serving.shadow_tally import ShadowReading
from hybridge_edge.serving.statistics import ModelStatistics

Labels = tuple[tuple[str, str], ...]
STAGES = ("queue", "copy", "features", "infer")
EDGE_STEP = 14
"""Every so many buckets of the sketch make one of the histogram: bounds about a factor of 2 apart."""
DURATION_BUCKETS = tuple(range(EDGE_STEP * 5, sketch.BUCKETS, EDGE_STEP))
"""Buckets of the sketch whose upper edges are the bounds: from 33 microseconds to eight minutes."""
ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SCORE_BUCKETS = tuple(range(0, scores.STEPS + 1, scores.STEPS // 10))


@dataclass(frozen=True, slots=True)
class Sample:
    """One number; ``suffix`` follows the family's name, as in ``_bucket``."""

    suffix: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one metric. ``kind``: counter, gauge or histogram; a counter's name ends in ``_total``."""

    name: str
    kind: str
    text: str
    samples: tuple[Sample, ...]


def families(readings: Readings) -> tuple[Family, ...]:
    """Every metric, also those that have no samples yet."""
    return (
        *_process(readings), *_models(readings), *_requests(readings), *_sequences(readings), *_shadows(readings),
        *_samples(readings),
        *_network(readings),
    )  # fmt: skip


def duration_bound(bucket: int) -> float:
    """Seconds: the longest whole microsecond in the sketch's bucket."""
    return math.floor(sketch.FACTOR**bucket) / 1e6


def _process(readings: Readings) -> Iterator[Family]:
    process = readings.process
    yield _one(
        "hybridge_build_info", "gauge", "Always 1; version of the device runtime.", 1, ("version", readings.version)
    )
    yield _one("process_resident_memory_bytes", "gauge", "Memory of the serving process.", process.resident_bytes)
    yield _one("process_cpu_seconds_total", "counter", "Processor time of the serving process.", process.cpu_seconds)
    yield _one("process_start_time_seconds", "gauge", "When it started, seconds since 1970.", process.started)
    yield _one("hybridge_waiting_requests", "gauge", "Requests that wait for their turn now.", readings.waiting)
    yield _one("process_open_fds", "gauge", "Its open files and sockets.", process.open_files)


def _models(readings: Readings) -> Iterator[Family]:
    states = tuple(
        Sample("", (("model", one.model), ("version", one.version), ("state", one.state.value)), 1)
        for one in readings.models
    )
    yield Family("hybridge_model_state", "gauge", "Always 1; the state of a package on this device.", states)
    degraded = tuple(
        Sample("", (("model", one.model), ("version", one.version), ("provider", one.provider)), bool(one.degraded))
        for one in readings.models
        if one.provider
    )
    text = "1 where a model does not run on the provider that this kind of device should run it on."
    yield Family("hybridge_model_degraded", "gauge", text, degraded)


def _requests(readings: Readings) -> Iterator[Family]:
    every = readings.statistics

    def counter(name: str, text: str, value: Callable[[ModelStatistics], float]) -> Family:
        return Family(name, "counter", text, tuple(Sample("", _labels(one), value(one)) for one in every))

    yield counter("hybridge_requests_total", "Requests answered.", lambda one: one.requests)
    yield counter("hybridge_rows_total", "Rows answered.", lambda one: one.rows)
    failures = tuple(
        Sample("", (*_labels(one), ("code", code)), count) for one in every for code, count in one.failures
    )
    text = "Requests not answered through the device's fault, or for overload."
    yield Family("hybridge_request_failures_total", "counter", text, failures)
    invalid = tuple(Sample("", (("model", model),), count) for model, count in readings.invalid)
    yield Family("hybridge_requests_invalid_total", "counter", "Requests that were their callers' fault.", invalid)
    yield counter("hybridge_answers_guarded_total", "Answers a guard objected to.", lambda one: one.guarded)
    stages = tuple(
        Sample("", (*_labels(one), ("stage", stage)), spent / 1e6)
        for one in every
        for stage, spent in zip(STAGES, (one.queue_us, one.copy_us, one.features_us, one.infer_us), strict=True)
    )
    text = "Time that answered requests spent in a stage."
    yield Family("hybridge_request_stage_seconds_total", "counter", text, stages)
    text = "From a request's entry to its answer, inside the server."
    durations = tuple(sample for one in every for sample in _durations(one))
    yield Family("hybridge_request_duration_seconds", "histogram", text, durations)
    rows = tuple(sample for one in every for sample in _rows(one))
    yield Family("hybridge_batch_rows", "histogram", "Rows of one run of the graphs.", rows)
    confidences = tuple(sample for one in every for sample in _confidences(one) if one.scores.count)
    yield Family("hybridge_confidence", "histogram", "The confidence of each row answered.", confidences)
    text = "Rows whose confidence was no number."
    yield counter("hybridge_confidence_strange_total", text, lambda one: one.scores.strange)


def _sequences(readings: Readings) -> Iterator[Family]:
    found = readings.sequences
    yield _one("hybridge_live_sequences", "gauge", "Sequences whose state is kept now.", found.live)
    yield _one("hybridge_sequence_state_bytes", "gauge", "What their states take.", found.bytes)
    yield _one("hybridge_sequences_begun_total", "counter", "Sequences begun.", found.begun)
    ended = tuple(Sample("", (("reason", reason),), count) for reason, count in found.ended)
    yield Family("hybridge_sequences_ended_total", "counter", "Sequences whose state is gone.", ended)
    text = "Sequences not begun for want of room."
    yield _one("hybridge_sequences_refused_total", "counter", text, found.refused)


def _shadows(readings: Readings) -> Iterator[Family]:
    every = tuple(one for one, _ in readings.shadows)

    def counter(name: str, text: str, value: Callable[[ShadowReading], float]) -> Family:
        return Family(name, "counter", text, tuple(Sample("", _beside(one), value(one)) for one in every))

    yield counter("hybridge_shadow_runs_total", "Inputs that a shadow answered.", lambda one: one.runs)
    yield counter("hybridge_shadow_failures_total", "Runs of a shadow that gave no answer.", lambda one: one.failed)
    text = "Answers of a shadow that a guard of its package objects to."
    yield counter("hybridge_shadow_guarded_total", text, lambda one: one.guarded)
    text = "Rows that a shadow and the version that answers were compared on."
    yield counter("hybridge_shadow_compared_total", text, lambda one: one.rows)
    text = "Of these, rows on which the largest value of the confidence output stood elsewhere."
    yield counter("hybridge_shadow_disagreed_total", text, lambda one: one.disagreed)
    dropped = tuple(
        Sample("", (*_beside(one), ("reason", reason)), count)
        for one, lost in readings.shadows
        for reason, count in lost
    )
    text = "Inputs chosen for a shadow and not compared."
    yield Family("hybridge_shadow_dropped_total", "counter", text, dropped)
    durations = tuple(
        sample
        for one in every
        for role, sketch_of in (("shadow", one.latency), ("first", one.first_latency))
        for sample in _spread((*_beside(one), ("role", role)), sketch_of)
    )
    text = "Features and model of a run in spare time, of the shadow and of the version that answers."
    yield Family("hybridge_shadow_duration_seconds", "histogram", text, durations)
    confidences = tuple(
        sample
        for one in every
        if one.rows
        for role, found in (("shadow", one.scores), ("first", one.first_scores))
        for sample in _scores((*_beside(one), ("role", role)), found)
    )
    text = "The confidence of each row compared, by the shadow and by the version that answers."
    yield Family("hybridge_shadow_confidence", "histogram", text, confidences)
    text = "How far the two distributions of confidences lie apart, 0 to 1 (Kolmogorov and Smirnov's statistic)."
    shifts = tuple(Sample("", _beside(one), round(one.shift, 4)) for one in every if one.rows)
    yield Family("hybridge_shadow_score_shift_ratio", "gauge", text, shifts)


def _samples(readings: Readings) -> Iterator[Family]:
    capture = readings.capture

    def known(name: str, kind: str, text: str, value: float) -> Family:
        return _one(name, kind, text, value) if capture is not None else Family(name, kind, text, ())

    offered, kept, captured = (capture.offered, capture.kept, capture.captured) if capture is not None else (0, 0, 0)
    yield known("hybridge_samples_offered_total", "counter", "Rows that capturing looked at.", offered)
    yield known("hybridge_samples_kept_total", "counter", "Samples chosen to be kept.", kept)
    yield known("hybridge_samples_captured_total", "counter", "Samples that are on the disk.", captured)
    dropped = () if capture is None else (
        ("queue-full", capture.dropped_queue_full),
        ("spool-full", capture.dropped_spool_full),
        ("spool-failed", capture.dropped_spool_failed),
        ("invalid", capture.dropped_invalid),
    )  # fmt: skip
    lost = tuple(Sample("", (("reason", reason),), count) for reason, count in dropped)
    yield Family("hybridge_samples_dropped_total", "counter", "Samples chosen and then lost.", lost)
    text = "Records of the spool that the cloud has."
    yield known("hybridge_samples_returned_total", "counter", text, readings.returned)
    yield known("hybridge_spool_records", "gauge", "Records that wait for the uplink.", readings.spool_records)
    size = capture.spool_bytes if capture is not None else 0
    yield known("hybridge_spool_bytes", "gauge", "Size of the spool on the disk.", size)


def _network(readings: Readings) -> Iterator[Family]:
    tls = readings.tls

    def known(name: str, kind: str, text: str, samples: Callable[[TlsStatus], tuple[Sample, ...]]) -> Family:
        return Family(name, kind, text, samples(tls) if tls is not None else ())

    def left(status: TlsStatus) -> tuple[Sample, ...]:
        return (Sample("", (), status.not_after - readings.at),) if status.not_after else ()

    text = "Until the certificate that the network is shown expires; negative once it has."
    yield known("hybridge_tls_certificate_expiry_seconds", "gauge", text, left)
    text = "1 where the files of TLS, as they are now, cannot be used and the ones before stay in force."
    yield known("hybridge_tls_files_refused", "gauge", text, lambda one: (Sample("", (), bool(one.problem)),))
    text = "Other files of TLS taken without a restart."
    yield known("hybridge_tls_rotations_total", "counter", text, lambda one: (Sample("", (), one.rotations),))
    text = "Connections from the network."
    yield known("hybridge_tls_connections", "gauge", text, lambda one: (Sample("", (), one.connections),))
    text = "Handshakes with clients on the network, by how they ended."
    yield known("hybridge_tls_handshakes_total", "counter", text, _results)


def _results(status: TlsStatus) -> tuple[Sample, ...]:
    return tuple(Sample("", (("result", name),), count) for name, count in status.handshakes.items())


def _one(name: str, kind: str, text: str, value: float, *labels: tuple[str, str]) -> Family:
    return Family(name, kind, text, (Sample("", labels, value),))


def _labels(one: ModelStatistics) -> Labels:
    return (("model", one.model), ("version", one.version), ("provider", one.provider))


def _beside(one: ShadowReading) -> Labels:
    return (("model", one.model), ("version", one.version), ("against", one.against_version))


def _histogram(labels: Labels, below: Iterator[tuple[float, int]], count: int, total: float) -> Iterator[Sample]:
    """The samples of a histogram from (bound, how many at most so large)."""
    for bound, number in below:
        yield Sample("_bucket", (*labels, ("le", repr(bound))), number)
    yield Sample("_bucket", (*labels, ("le", "+Inf")), count)
    yield Sample("_sum", labels, total)
    yield Sample("_count", labels, count)


def _durations(one: ModelStatistics) -> Iterator[Sample]:
    return _spread(_labels(one), one.latency, one.total_us)


def _spread(labels: Labels, latency: sketch.Sketch, total_us: int | None = None) -> Iterator[Sample]:
    """A histogram of durations; where their sum is not given, each counts as its bucket's middle."""
    counts = latency.counts
    if total_us is None:
        total_us = round(sum(2 * sketch.FACTOR**bucket / (sketch.FACTOR + 1) * count for bucket, count in counts))
    below = (
        (duration_bound(bound), sum(count for bucket, count in counts if bucket <= bound)) for bound in DURATION_BUCKETS
    )
    return _histogram(labels, below, latency.count, total_us / 1e6)


def _rows(one: ModelStatistics) -> Iterator[Sample]:
    below = ((float(bound), sum(count for rows, count in one.batches if rows <= bound)) for bound in ROW_BOUNDS)
    return _histogram(_labels(one), below, one.executions, sum(rows * count for rows, count in one.batches))


def _confidences(one: ModelStatistics) -> Iterator[Sample]:
    return _scores(_labels(one), one.scores)


def _scores(labels: Labels, found: scores.ScoreSketch) -> Iterator[Sample]:
    below = ((scores.edge(bucket), found.at_most(bucket)) for bucket in SCORE_BUCKETS)
    return _histogram(labels, below, found.count, found.total)

"""What the server counts of a version since it answers, and of the version before on the same inputs.

See contract.report.Evidence for what leaves the device.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

import numpy

from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.report import Evidence
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import Arrays

MAX_NOTES = 512
"""Of answers, until somebody who adds one adds them up."""


@dataclass(frozen=True, slots=True)
class Paired:
    """The probes as both versions answered them: rows, and medians in microseconds."""

    rows: int = 0
    disagreed: int = 0
    slower: int = 0
    median_us: int = 0
    median_us_before: int = 0


class Tally:
    """Counts of one version since it answers; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests = self._errors = self._guarded = self._live = self._disagreed = 0
        self._latency = Sketch()
        self._notes: deque[tuple[int, bool]] = deque()

    def answered(self, duration_us: int, *, guarded: bool) -> None:
        """An answer left, features and model in ``duration_us`` microseconds."""
        self._notes.append((duration_us, guarded))  # one step of the interpreter: no lock
        if len(self._notes) >= MAX_NOTES:
            with self._lock:
                self._add_up()

    def _add_up(self) -> None:
        """The lock is held; notes may be added meanwhile."""
        while self._notes:
            duration_us, guarded = self._notes.popleft()
            self._requests += 1
            self._guarded += guarded
            self._latency.add(duration_us)

    def failed(self, *, guarded: bool) -> None:
        """A request got an error that is not its caller's fault."""
        with self._lock:
            self._requests += 1
            self._errors += 1
            self._guarded += guarded

    def compared(self, rows: int, disagreed: int) -> None:
        """The version before answered ``rows`` real rows too."""
        with self._lock:
            self._live += rows
            self._disagreed += disagreed

    def latency(self) -> Sketch:
        """A copy of the durations so far."""
        with self._lock:
            self._add_up()
            return Sketch(self._latency.counts)

    def evidence(self, against: str, paired: Paired) -> Evidence:
        """The counts as a report says them; ``against`` is the digest of the version before, or ""."""
        with self._lock:
            self._add_up()
            return Evidence(
                against=against,
                requests=self._requests,
                errors=self._errors,
                guarded=self._guarded,
                probes=paired.rows,
                probes_disagreed=paired.disagreed,
                probes_slower=paired.slower,
                probe_us=paired.median_us,
                probe_us_before=paired.median_us_before,
                live=self._live,
                live_disagreed=self._disagreed,
                p50_us=self._latency.quantile(0.5),
                p99_us=self._latency.quantile(0.99),
            )


def comparable(now: Manifest, before: Manifest) -> bool:
    """Whether two versions' answers can be compared row by row: same raw inputs, same shape of the confidence output.

    A confidence output without a batch axis, of a model with batches, says nothing of a row.
    """
    output, other = _confidence(now), _confidence(before)
    if output is None or other is None or now.inputs != before.inputs:
        return False
    by_row = output.shape[0] == -1 or all(spec.shape[0] != -1 for spec in now.inputs)
    return by_row and (output.name, output.shape) == (other.name, other.shape)


def _confidence(manifest: Manifest) -> TensorSpec | None:
    return next((spec for spec in manifest.outputs if spec.name == manifest.confidence_output), None)


def disagreements(output: str, rows: int, now: Arrays, before: Arrays) -> int:
    """In how many rows the largest value of ``output`` stands elsewhere; one with NaN or infinity agrees with none."""
    one, other = now[output].reshape(rows, -1), before[output].reshape(rows, -1)
    differ = one.argmax(axis=1) != other.argmax(axis=1)
    return int((differ | ~numpy.isfinite(one).all(axis=1)).sum())

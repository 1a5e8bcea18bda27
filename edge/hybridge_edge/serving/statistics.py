"""What each version of each model did since the server started: sums, counts and sketches that add up over devices.

Evidence for a rollout is another thing (see ``evidence``): it begins anew with every switch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.engine import Array

MAX_VERSIONS = 64
"""Versions remembered; of more, the one that answered longest ago is forgotten."""

Times = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Of one version of one model.

    Attributes:
        provider: where it runs, as the runtime names it.
        requests: answered. failures: not answered through our fault or for overload, by error code, sorted.
        executions: runs of the graphs; below ``requests`` where requests were put together. rows: answered.
        guarded: answers that a guard objected to, refused ones included.
        queue_us, copy_us, features_us, infer_us, total_us: sums over answered requests, microseconds.
        batches: (rows of a run, number of such runs), ascending.
        latency: of ``total_us`` of each answered request. last_ms: of the last answer, milliseconds since 1970.
        scores: the confidence of each answered row; empty where the model has none.
    """

    model: str
    version: str
    provider: str
    requests: int
    failures: tuple[tuple[str, int], ...]
    executions: int
    rows: int
    guarded: int
    queue_us: int
    copy_us: int
    features_us: int
    infer_us: int
    total_us: int
    batches: tuple[tuple[int, int], ...]
    latency: Sketch
    last_ms: int
    scores: ScoreSketch


def scores_of(output: Array, rows: int) -> list[float]:
    """The confidence of each of ``rows`` rows: the largest value of the confidence output, rows first where it has any.

    An output without a batch axis has one confidence for all of them.
    """
    if rows > 1 and output.ndim > 0 and output.shape[0] == rows:
        return [float(score) for score in output.reshape(rows, -1).max(axis=1)]
    return [float(output.max())]


class _Sums:
    __slots__ = (
        "batches", "failures", "guarded", "last_ms", "latency", "provider", "requests", "rows", "scores", "times",
    )  # fmt: skip

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.requests = self.rows = self.guarded = self.last_ms = 0
        self.failures: dict[str, int] = {}
        self.batches: dict[int, int] = {}
        self.times = [0, 0, 0, 0, 0]
        self.latency = Sketch()
        self.scores = ScoreSketch()


class Statistics:
    """The table of them; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: dict[tuple[str, str], _Sums] = {}

    def answered(
        self,
        model: str,
        version: str,
        provider: str,
        rows: int,
        times_us: tuple[int, int, int, int, int],
        guarded: bool,
    ) -> None:
        """A request was answered; ``times_us``: queue, copy, features, infer, total."""
        with self._lock:
            sums = self._of(model, version, provider)
            sums.requests += 1
            sums.rows += rows
            sums.guarded += guarded
            sums.times = [one + more for one, more in zip(sums.times, times_us, strict=True)]
            sums.latency.add(times_us[4])
            sums.last_ms = time.time_ns() // 1_000_000

    def ran(self, model: str, version: str, provider: str, rows: int) -> None:
        """The graphs ran once, over ``rows`` rows."""
        with self._lock:
            batches = self._of(model, version, provider).batches
            batches[rows] = batches.get(rows, 0) + 1

    def failed(self, model: str, version: str, provider: str, code: str, guarded: bool = False) -> None:
        """A request was not answered, and not through its caller's fault."""
        with self._lock:
            sums = self._of(model, version, provider)
            sums.failures[code] = sums.failures.get(code, 0) + 1
            sums.guarded += guarded

    def scored(self, model: str, version: str, confidences: Iterable[float]) -> None:
        """A version gave answers of these confidences, one a row; it has answered before."""
        with self._lock:
            sums = self._sums.get((model, version))
            if sums is not None:
                for confidence in confidences:
                    sums.scores.add(confidence)

    def scores(self, model: str, version: str) -> ScoreSketch:
        """A copy of a version's scores so far."""
        with self._lock:
            sums = self._sums.get((model, version))
            return ScoreSketch() if sums is None else ScoreSketch(sums.scores.counts, sums.scores.strange)

    def read(self) -> tuple[ModelStatistics, ...]:
        """A copy, by model and version."""
        with self._lock:
            return tuple(_frozen(*key, self._sums[key]) for key in sorted(self._sums))

    def _of(self, model: str, version: str, provider: str) -> _Sums:
        found = self._sums.get((model, version))
        if found is None:
            if len(self._sums) >= MAX_VERSIONS:
                del self._sums[min(self._sums, key=lambda key: self._sums[key].last_ms)]
            found = self._sums[model, version] = _Sums(provider)
        found.provider = provider
        return found


def _frozen(model: str, version: str, sums: _Sums) -> ModelStatistics:
    queue_us, copy_us, features_us, infer_us, total_us = sums.times
    return ModelStatistics(
        model=model,
        version=version,
        provider=sums.provider,
        requests=sums.requests,
        failures=tuple(sorted(sums.failures.items())),
        executions=sum(sums.batches.values()),
        rows=sums.rows,
        guarded=sums.guarded,
        queue_us=queue_us,
        copy_us=copy_us,
        features_us=features_us,
        infer_us=infer_us,
        total_us=total_us,
        batches=tuple(sorted(sums.batches.items())),
        latency=Sketch(sums.latency.counts),
        last_ms=sums.last_ms,
        scores=ScoreSketch(sums.scores.counts, sums.scores.strange),
    )

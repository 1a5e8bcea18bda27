"""What each version of each model did since the server started: sums, counts and sketches that add up over devices.

Evidence for a rollout is another thing (see ``evidence``): it begins anew with every switch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.engine import Array

MAX_VERSIONS = 64
"""Versions remembered; of more, the one that answered longest ago is forgotten."""
MAX_NOTES = 512
"""Of one version, until somebody who adds one adds them up."""
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

    @classmethod
    def none(cls, model: str, version: str) -> ModelStatistics:
        """Of a version that was asked nothing yet."""
        return _frozen(model, version, _Sums(""))


def scores_of(output: Array, rows: int) -> list[float]:
    """The confidence of each of ``rows`` rows: the largest value of the confidence output, rows first where it has any.

    An output without a batch axis has one confidence for all of them.
    """
    if rows > 1 and output.ndim > 0 and output.shape[0] == rows:
        return [float(score) for score in output.reshape(rows, -1).max(axis=1)]
    return [float(output.max())]


class _Sums:
    """What is added up, and what happened since: a request leaves a note, and whoever reads adds the notes up."""

    __slots__ = (
        "batches", "failures", "guarded", "last_ms", "latency", "notes", "provider", "requests", "rows", "scores",
        "times",
    )  # fmt: skip

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.requests = self.rows = self.guarded = self.last_ms = 0
        self.failures: dict[str, int] = {}
        self.batches: dict[int, int] = {}
        self.times = [0, 0, 0, 0, 0]
        self.latency = Sketch()
        self.scores = ScoreSketch()
        self.notes: deque[_Answered | int | tuple[float, ...]] = deque()

    def add_up(self) -> None:
        """The caller holds the lock; notes may be added meanwhile."""
        while self.notes:
            note = self.notes.popleft()
            if isinstance(note, int):
                self.batches[note] = self.batches.get(note, 0) + 1
            elif isinstance(note, _Answered):
                self.requests += 1
                self.rows += note.rows
                self.guarded += note.guarded
                self.times = [one + more for one, more in zip(self.times, note.times_us, strict=True)]
                self.latency.add(note.times_us[4])
            else:
                for score in note:
                    self.scores.add(score)


class _Answered(NamedTuple):
    rows: int
    times_us: Times
    guarded: bool


class Statistics:
    """The table of them; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sums: dict[tuple[str, str], _Sums] = {}

    def answered(self, model: str, version: str, provider: str, rows: int, times_us: Times, guarded: bool) -> None:
        """A request was answered; ``times_us``: queue, copy, features, infer, total."""
        sums = self._of(model, version, provider)
        sums.last_ms = time.time_ns() // 1_000_000
        self._note(sums, _Answered(rows, times_us, guarded))

    def ran(self, model: str, version: str, provider: str, rows: int) -> None:
        """The graphs ran once, over ``rows`` rows."""
        self._note(self._of(model, version, provider), rows)

    def scored(self, model: str, version: str, confidences: Iterable[float]) -> None:
        """A version gave answers of these confidences, one a row; it has answered before."""
        sums = self._sums.get((model, version))
        if sums is not None:
            self._note(sums, tuple(confidences))

    def failed(self, model: str, version: str, provider: str, code: str, guarded: bool = False) -> None:
        """A request was not answered, and not through its caller's fault."""
        sums = self._of(model, version, provider)
        with self._lock:
            sums.failures[code] = sums.failures.get(code, 0) + 1
            sums.guarded += guarded

    def scores(self, model: str, version: str) -> ScoreSketch:
        """A copy of a version's scores so far."""
        with self._lock:
            sums = self._sums.get((model, version))
            if sums is None:
                return ScoreSketch()
            sums.add_up()
            return ScoreSketch(sums.scores.counts, sums.scores.strange)

    def read(self) -> tuple[ModelStatistics, ...]:
        """A copy, by model and version."""
        with self._lock:
            for sums in self._sums.values():
                sums.add_up()
            return tuple(_frozen(*key, self._sums[key]) for key in sorted(self._sums))

    def _note(self, sums: _Sums, note: _Answered | int | tuple[float, ...]) -> None:
        sums.notes.append(note)  # one step of the interpreter: no lock
        if len(sums.notes) >= MAX_NOTES:
            with self._lock:
                sums.add_up()

    def _of(self, model: str, version: str, provider: str) -> _Sums:
        found = self._sums.get((model, version))
        if found is None:
            with self._lock:
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

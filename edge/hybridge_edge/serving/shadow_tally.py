"""What is counted of a shadow: its runs on inputs that the version beside it answered, and both versions' scores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock

from hybridge_edge.contract.report import SLOWER, Evidence
from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.serving.evidence import Paired


@dataclass(frozen=True, slots=True)
class Compared:
    """One input that a shadow answered too.

    Attributes:
        took_us: of the shadow's run, features and model. first_us: of the other version's run right beside it, 0 where
            the two were not timed. guarded: whether a guard of the shadow's package objects.
        rows, disagreed: compared row by row; 0 where the two cannot be.
        scores, first_scores: the confidence of each row, of the shadow and of the version that answered.
    """

    took_us: int
    first_us: int
    guarded: bool
    rows: int
    disagreed: int
    scores: tuple[float, ...] = ()
    first_scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowReading:
    """A shadow's counts at one moment, since it stands beside ``against_version``.

    Attributes:
        against: digest of the version that answers. seconds: since then. runs: answers of the shadow. failed: runs that
            gave none. guarded: answers that a guard of its package objects to.
        rows, disagreed: see ``Compared``. timed, slower: pairs of runs, and those in which the shadow took more than
            SLOWER times as long. latency, first_latency: of all its runs, and of the other version's timed ones.
        scores, first_scores: over the same rows. paired: what the probes said of the two.
    """

    model: str
    version: str
    digest: str
    provider: str
    against: str
    against_version: str
    seconds: int
    runs: int
    failed: int
    guarded: int
    rows: int
    disagreed: int
    timed: int
    slower: int
    latency: Sketch
    first_latency: Sketch
    scores: ScoreSketch
    first_scores: ScoreSketch
    paired: Paired

    @property
    def shift(self) -> float:
        """How far the scores of both lie apart, 0 to 1."""
        return self.scores.apart(self.first_scores)

    def evidence(self) -> Evidence:
        """What a report says of it."""
        return Evidence(
            against=self.against,
            requests=self.runs + self.failed,
            errors=self.failed,
            guarded=self.guarded,
            probes=self.paired.rows,
            probes_disagreed=self.paired.disagreed,
            probes_slower=self.paired.slower,
            probe_us=self.paired.median_us,
            probe_us_before=self.paired.median_us_before,
            live=self.rows,
            live_disagreed=self.disagreed,
            p50_us=self.latency.quantile(0.5),
            p99_us=self.latency.quantile(0.99),
            live_timed=self.timed,
            live_slower=self.slower,
            live_us=self.latency.quantile(0.5) if self.timed else 0,
            live_us_before=self.first_latency.quantile(0.5),
            score_shift=round(self.shift * 1000),
        )


class ShadowTally:
    """Counts of one shadow beside one version; safe to share between threads.

    Args:
        model, version, digest, provider: the shadow's. against, against_version: the version that answers.
        paired: what the probes said of the two.
    """

    def __init__(
        self,
        model: str,
        version: str,
        digest: str,
        provider: str,
        against: str,
        against_version: str,
        paired: Paired,
    ) -> None:
        self._lock = Lock()
        self._names = (model, version, digest, provider, against, against_version)
        self.against = against
        self._paired = paired
        self._since = time.monotonic()
        self._runs = self._failed = self._guarded = self._rows = self._disagreed = self._timed = self._slower = 0
        self._latency, self._first_latency = Sketch(), Sketch()
        self._scores, self._first_scores = ScoreSketch(), ScoreSketch()

    def compared(self, one: Compared) -> None:
        """The shadow answered."""
        with self._lock:
            self._runs += 1
            self._guarded += one.guarded
            self._rows += one.rows
            self._disagreed += one.disagreed
            self._latency.add(one.took_us)
            if one.first_us:
                self._timed += 1
                self._slower += one.took_us > SLOWER * one.first_us
                self._first_latency.add(one.first_us)
            for score in one.scores:
                self._scores.add(score)
            for score in one.first_scores:
                self._first_scores.add(score)

    def failed(self) -> None:
        """The shadow's run gave no answer."""
        with self._lock:
            self._failed += 1

    def reading(self) -> ShadowReading:
        with self._lock:
            return ShadowReading(
                *self._names,
                int(time.monotonic() - self._since),
                self._runs,
                self._failed,
                self._guarded,
                self._rows,
                self._disagreed,
                self._timed,
                self._slower,
                Sketch(self._latency.counts),
                Sketch(self._first_latency.counts),
                ScoreSketch(self._scores.counts, self._scores.strange),
                ScoreSketch(self._first_scores.counts, self._first_scores.strange),
                self._paired,
            )

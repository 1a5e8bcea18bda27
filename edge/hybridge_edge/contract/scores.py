"""A bounded, mergeable picture of scores: how sure a model was, row by row.

Most scores are probabilities, so the buckets are WIDTH wide from 0 to 1; beyond 1 they grow by FACTOR up to LARGEST,
and below 0 they mirror those above. Bucket 0 holds exactly 0, bucket i > 0 what lies in (edge(i - 1), edge(i)], and
bucket -i what lies in [-edge(i), -edge(i - 1)). The sum of two sketches is the sketch of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument

STEPS = 50
WIDTH = 1 / STEPS
FACTOR = 1.25
LARGEST = 1e6
"""Larger ones, infinity among them, count as this large."""
_LOG_FACTOR = math.log(FACTOR)
OUTERMOST = STEPS + math.ceil(math.log(LARGEST) / _LOG_FACTOR)
"""Buckets go from -OUTERMOST to OUTERMOST: at most 225 of them, whatever is added."""
_ROUNDING = 1e-9


def edge(bucket: int) -> float:
    """The upper edge of a bucket from 0 to OUTERMOST, included in it."""
    return bucket / STEPS if bucket <= STEPS else float(FACTOR ** (bucket - STEPS))


def _middle(bucket: int) -> float:
    size = abs(bucket)
    return math.copysign((edge(size) + edge(size - 1)) / 2, bucket) if size else 0.0


class ScoreSketch:
    """Counts by bucket. Not safe to share between threads without a lock.

    Attributes:
        strange: scores that were not numbers; they are in no bucket.
    """

    __slots__ = ("_counts", "strange")

    def __init__(self, counts: Iterable[tuple[int, int]] = (), strange: int = 0) -> None:
        self._counts: dict[int, int] = {}
        self.strange = strange
        for bucket, count in counts:
            if not -OUTERMOST <= bucket <= OUTERMOST or count < 1:
                raise InvalidDocument(f"A sketch of scores has no bucket {bucket} with the count {count}.")
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """Scores in buckets."""
        return sum(self._counts.values())

    @property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """(bucket, count), ascending; only those that hold something."""
        return tuple(sorted(self._counts.items()))

    def add(self, score: float) -> None:
        """Count one score, any number, infinite or none (NaN)."""
        if math.isnan(score):
            self.strange += 1
            return
        size = min(abs(score), LARGEST)
        if size <= 1.0:
            bucket = math.ceil(size * STEPS - _ROUNDING)
        else:
            bucket = STEPS + math.ceil(math.log(size) / _LOG_FACTOR - _ROUNDING)
        if score < 0:
            bucket = -bucket
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    @property
    def total(self) -> float:
        """The sum of the scores, each taken as its bucket's middle."""
        return sum(_middle(bucket) * count for bucket, count in self._counts.items())

    def merged(self, other: ScoreSketch) -> ScoreSketch:
        """The sketch of both."""
        return ScoreSketch((*self.counts, *other.counts), self.strange + other.strange)

    def at_most(self, bucket: int) -> int:
        """How many scores lie at or below the upper edge of a bucket from 0 to OUTERMOST."""
        return sum(count for one, count in self._counts.items() if one <= bucket)

    def apart(self, other: ScoreSketch) -> float:
        """How far two distributions lie apart, 0 to 1: the largest difference between their shares at or below an edge.

        That is the statistic of Kolmogorov and Smirnov, looked at where buckets end. Scores that are no numbers
        count as lying beyond all others. 0.0 where one of the two is empty.
        """
        ours, theirs = self.count + self.strange, other.count + other.strange
        if not ours or not theirs:
            return 0.0
        mine, his = dict(self._counts), dict(other._counts)
        difference = largest = 0.0
        for bucket in sorted({*mine, *his}):
            difference += mine.get(bucket, 0) / ours - his.get(bucket, 0) / theirs
            largest = max(largest, abs(difference))
        return min(largest, 1.0)

    def quantile(self, share: float) -> float:
        """The score that ``share`` (0 to 1) of them do not exceed: its bucket's middle, 0.0 where there are none."""
        left = math.ceil(share * self.count)
        for bucket, count in self.counts:
            left -= count
            if left <= 0:
                return _middle(bucket)
        return 0.0

    def to_json(self) -> dict[str, object]:
        counts = self.counts
        strange: dict[str, object] = {"strange": self.strange} if self.strange else {}
        return {**strange, "buckets": [bucket for bucket, _ in counts], "counts": [count for _, count in counts]}

    @classmethod
    def read(cls, reader: Reader) -> ScoreSketch:
        buckets, counts = reader.integers("buckets"), reader.integers("counts")
        if len(buckets) != len(counts):
            raise InvalidDocument(f"A sketch of scores names {len(buckets)} buckets and {len(counts)} counts.")
        return cls(zip(buckets, counts, strict=True), reader.integer("strange", 0))

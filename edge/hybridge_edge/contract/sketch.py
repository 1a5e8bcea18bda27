"""A bounded, mergeable picture of durations: a histogram whose buckets grow by a constant factor.

A duration of d microseconds falls into bucket ceil(log(d) / log(FACTOR)), so any quantile read from it is within
RELATIVE_ERROR of a true one, and the sum of two sketches is the sketch of both (Masson, Rim, Lee: DDSketch, 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument

RELATIVE_ERROR = 0.025
FACTOR = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LONGEST_US = 600_000_000
"""Longer ones count as this long."""
_LOG_FACTOR = math.log(FACTOR)
BUCKETS = math.ceil(math.log(LONGEST_US) / _LOG_FACTOR) + 1
"""At most so many, whatever is added: 406."""


class Sketch:
    """Counts by bucket. Not safe to share between threads without a lock."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._counts: dict[int, int] = {}
        for bucket, count in counts:
            if not 0 <= bucket < BUCKETS or count < 1:
                raise InvalidDocument(f"A sketch has no bucket {bucket} with the count {count}.")
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        return sum(self._counts.values())

    @property
    def counts(self) -> tuple[tuple[int, int], ...]:
        """(bucket, count), ascending; only those that hold something."""
        return tuple(sorted(self._counts.items()))

    def add(self, duration_us: int) -> None:
        """Count one duration in microseconds; below 1 counts as 1, above LONGEST_US as that."""
        bucket = math.ceil(math.log(min(max(duration_us, 1), LONGEST_US)) / _LOG_FACTOR)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def merged(self, other: Sketch) -> Sketch:
        """The sketch of both."""
        return Sketch((*self.counts, *other.counts))

    def quantile(self, share: float) -> int:
        """The duration, microseconds, that ``share`` (0 to 1) of them do not exceed, within RELATIVE_ERROR."""
        left = math.ceil(share * self.count)
        for bucket, count in self.counts:
            left -= count
            if left <= 0:
                return round(2 * FACTOR**bucket / (FACTOR + 1))
        return 0

    def to_json(self) -> dict[str, object]:
        counts = self.counts
        return {"buckets": [bucket for bucket, _ in counts], "counts": [count for _, count in counts]}

    @classmethod
    def read(cls, reader: Reader) -> Sketch:
        buckets, counts = reader.integers("buckets"), reader.integers("counts")
        if len(buckets) != len(counts):
            raise InvalidDocument(f"A sketch names {len(buckets)} buckets and {len(counts)} counts.")
        return cls(zip(buckets, counts, strict=True))

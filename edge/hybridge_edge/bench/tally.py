"""What callers measured: exact to the microsecond below 10 ms, to three digits above, and it adds up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from hybridge_edge.contract.document import Reader

EXACT_US = 10_000
STAGES = ("queue", "copy", "features", "infer", "total")


def rounded(duration_us: int) -> int:
    """The duration as it is counted: a table of them stays below 20,000 rows, whatever is measured."""
    if duration_us < EXACT_US:
        return max(duration_us, 1)
    step = int(10 ** (len(str(duration_us)) - 3))
    return duration_us // step * step


@dataclass(slots=True)
class Tally:
    """One caller's counts, or those of all together.

    Attributes:
        durations: microseconds as the caller saw them -> answers. stages: the server's own sums, microseconds.
        errors: code -> requests. versions, providers: who answered -> answers. guarded: answers a guard flagged.
        seconds: how long the longest of them asked.
    """

    durations: dict[int, int] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    errors: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    providers: dict[str, int] = field(default_factory=dict)
    guarded: int = 0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        return sum(self.durations.values())

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def quantile(self, share: float) -> int:
        """The duration, microseconds, that ``share`` (0 to 1) of the answers did not exceed; 0 where there are none."""
        left = math.ceil(share * self.answered)
        for duration, count in sorted(self.durations.items()):
            left -= count
            if left <= 0:
                return duration
        return 0

    def mean_us(self, stage: str = "") -> float:
        """The mean of the callers' durations, or of a stage of the server; 0 where nothing was answered."""
        total = self.stages[stage] if stage else sum(took * count for took, count in self.durations.items())
        return total / self.answered if self.answered else 0.0

    def to_json(self) -> dict[str, object]:
        return {
            "durations": sorted(self.durations),
            "counts": [count for _, count in sorted(self.durations.items())],
            "stages": self.stages,
            "errors": self.errors,
            "versions": self.versions,
            "providers": self.providers,
            "guarded": self.guarded,
            "seconds": self.seconds,
        }

    @classmethod
    def read(cls, reader: Reader) -> Tally:
        durations, counts = reader.integers("durations"), reader.integers("counts")
        return cls(
            durations=dict(zip(durations, counts, strict=True)),
            stages=_counts(reader, "stages"),
            errors=_counts(reader, "errors"),
            versions=_counts(reader, "versions"),
            providers=_counts(reader, "providers"),
            guarded=reader.integer("guarded"),
            seconds=reader.number("seconds"),
        )


def merged(tallies: Iterable[Tally]) -> Tally:
    """The counts of all."""
    both = Tally()
    for one in tallies:
        for name in ("durations", "stages", "errors", "versions", "providers"):
            table = getattr(both, name)
            for key, count in getattr(one, name).items():
                table[key] = table.get(key, 0) + count
        both.guarded += one.guarded
        both.seconds = max(both.seconds, one.seconds)
    return both


def _counts(reader: Reader, name: str) -> dict[str, int]:
    return {key: int(count) for key, count in reader.numbers_by_name(name).items()}

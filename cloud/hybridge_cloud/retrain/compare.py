"""Champion against challenger on the same rows: is the challenger better, or does it only look so?

Windows of one recording are alike, so the interval comes from resampling whole groups (a paired cluster bootstrap,
Field and Welsh 2007), not rows; the exact McNemar test over rows is reported beside it and decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import Refused

RESAMPLES = 10_000
CONFIDENCE = 0.95
MINIMUM_GROUPS = 10
"""Fewer independent groups give no interval worth the name."""
_CHUNK_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured, and the verdict.

    Attributes:
        rows, groups: how much it was measured on. champion, challenger: share of rows that are right.
        difference: challenger - champion; low, high: its 95 % interval over groups.
        gained, lost: rows only the challenger, only the champion has right. mcnemar_p: exact, two-sided.
        minimum_gain: ``low`` must be above it. promote: whether it is. reason: the sentence.
    """

    rows: int
    groups: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    mcnemar_p: float
    minimum_gain: float
    promote: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def read(cls, reader: Reader) -> Comparison:
        return cls(
            rows=reader.integer("rows"),
            groups=reader.integer("groups"),
            champion=reader.number("champion"),
            challenger=reader.number("challenger"),
            difference=reader.number("difference"),
            low=reader.number("low"),
            high=reader.number("high"),
            gained=reader.integer("gained"),
            lost=reader.integer("lost"),
            mcnemar_p=reader.number("mcnemar_p"),
            minimum_gain=reader.number("minimum_gain"),
            promote=reader.boolean("promote"),
            reason=reader.text("reason"),
        )


def compare(
    champion: NDArray[np.bool_],
    challenger: NDArray[np.bool_],
    groups: NDArray[np.str_],
    *,
    minimum_gain: float = 0.0,
    seed: int = 0,
) -> Comparison:
    """Compare which rows two models have right.

    Args:
        champion, challenger: (rows,) whether each row is right. groups: (rows,) what hangs together.
        minimum_gain: the difference, in shares of 1, that the lower end of the interval must exceed.

    Raises:
        Refused: the arrays differ in length, or there are fewer than ten groups.
    """
    if not len(champion) == len(challenger) == len(groups):
        raise Refused("Champion and challenger were not measured on the same rows.")
    _, index = np.unique(groups, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    if count < MINIMUM_GROUPS:
        raise Refused(
            f"The frozen slice has {count} groups; {MINIMUM_GROUPS} are needed to tell better from lucky.",
            "Give the task's frozen data more recordings, or finer groups.",
        )
    step = challenger.astype(np.int64) - champion.astype(np.int64)
    difference = float(step.mean())
    low, high = _interval(np.bincount(index, weights=step).astype(np.float64), np.bincount(index), seed)
    gained, lost = int((step > 0).sum()), int((step < 0).sum())
    promote = low > minimum_gain
    verdict = "better" if promote else "not shown to be better"
    return Comparison(
        rows=len(step),
        groups=count,
        champion=float(champion.mean()),
        challenger=float(challenger.mean()),
        difference=difference,
        low=low,
        high=high,
        gained=gained,
        lost=lost,
        mcnemar_p=mcnemar(gained, lost),
        minimum_gain=minimum_gain,
        promote=promote,
        reason=(
            f"The challenger is {verdict}: {challenger.mean():.3f} against {champion.mean():.3f} on {len(step)} frozen "
            f"rows, difference {difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f} over {count} groups."
        ),
    )


def interval(values: NDArray[np.float64], groups: NDArray[np.str_], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of ``values`` (rows,) when whole ``groups`` (rows,) are drawn again."""
    _, index = np.unique(groups, return_inverse=True)
    return _interval(np.bincount(index, weights=values).astype(np.float64), np.bincount(index), seed)


def _interval(sums: NDArray[np.float64], sizes: NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Percentiles of the mean when whole groups are drawn again, with replacement."""
    generator = np.random.default_rng(seed)
    groups = len(sums)
    shares = np.full(groups, 1 / groups)
    means: list[NDArray[np.float64]] = []
    chunk = max(1, _CHUNK_CELLS // groups)
    for start in range(0, RESAMPLES, chunk):
        drawn = generator.multinomial(groups, shares, size=min(chunk, RESAMPLES - start))
        means.append((drawn @ sums) / (drawn @ sizes))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of McNemar's test (1947): gained and lost rows are a fair coin's under equality."""
    total = gained + lost
    if total == 0:
        return 1.0
    tail = sum(
        math.exp(math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2))
        for k in range(min(gained, lost) + 1)
    )
    return min(1.0, 2 * tail)

"""How many rows one run of a model shall take: more only as long as that makes a row cheaper, on this device.

On an accelerator, and for a small model anywhere, a run costs nearly the same for one row as for many. A convolution
that fills a processor's caches with one row is dearer by the row with sixteen, and everybody in the batch waits for
all of it. No table could know which is which on which device, so every run is a measurement.
"""

from __future__ import annotations

PAYS = 0.9
"""A row of a larger run must cost at most this share of one of the next smaller run that was measured."""
SETTLED = 8
"""Runs of a size before it is believed."""
TRY_AGAIN = 1_000
"""Runs after which a size that did not pay is tried again: a device that was busy may be idle now."""
_NEWEST = 0.2
_LOOK = 16


class Batching:
    """What the runs of one loaded model taught; sizes are the powers of two.

    Threads may call ``learn`` at once: at worst a measurement is lost.

    Attributes:
        most: rows to put together now, 1 to the manifest's ``max_batch``.
    """

    __slots__ = ("_costs", "_limit", "_refused_at", "_runs", "most")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._costs: dict[int, tuple[int, float]] = {}
        self._refused_at = self._runs = 0
        self.most = 1

    def learn(self, rows: int, microseconds: int) -> None:
        """A run of ``rows`` took so long."""
        if self._limit <= 1 or rows < 1:
            return
        self._runs += 1
        size = 1 << (rows - 1).bit_length()
        count, cost = self._costs.get(size, (0, 0.0))
        latest = microseconds / rows
        self._costs[size] = (count + 1, latest if not count else cost + _NEWEST * (latest - cost))
        if self._refused_at and self._runs - self._refused_at > TRY_AGAIN:
            self._refused_at = 0
            self._costs = {known: cost for known, cost in self._costs.items() if known <= self.most}
        if count <= SETTLED or self._runs % _LOOK == 0:
            self.most = self._choose()

    def _choose(self) -> int:
        """Climb from one row by doubling, for as long as each size is known to pay."""
        most = 1
        while most < self._limit:
            count, cost = self._costs.get(most, (0, 0.0))
            if count < SETTLED:
                return most
            larger = most * 2
            there, larger_cost = self._costs.get(larger, (0, 0.0))
            if there >= SETTLED and larger_cost > PAYS * cost:
                self._refused_at = self._refused_at or self._runs
                return most
            most = min(larger, self._limit)
        return most

"""Moments of a rate on the monotonic clock, without drift: the n-th is at start + n / rate, however long work took."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_HERTZ = 10_000.0


class Pace:
    """Args:
    hertz: moments a second, above 0. clock: seconds, monotonic.
    """

    def __init__(self, hertz: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._hertz = hertz
        self._clock = clock
        self._start = clock()
        self._number = 0

    def left(self) -> float:
        """Seconds until the next moment, 0 or less where it is there."""
        return self._start + self._number / self._hertz - self._clock()

    def take(self) -> int:
        """Take the moment that is there; returns how many later ones have gone by too, which are given up.

        Whoever fell behind goes on with the present moment, and does not hurry after the lost ones.
        """
        behind = max(0, int((self._clock() - self._start) * self._hertz) - self._number)
        self._number += 1 + behind
        return behind

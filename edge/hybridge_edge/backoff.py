"""How long to wait before trying again: exponential, jittered, bounded."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.25
MAX_SECONDS = 300.0


class Backoff:
    """Waiting times between failed attempts.

    The n-th wait is drawn from the upper half of FIRST_SECONDS * 2**n, so that many devices that failed together do
    not come back together, and is never longer than ``longest`` seconds.
    """

    def __init__(self, longest: float = MAX_SECONDS, rng: random.Random | None = None) -> None:
        self._longest = longest
        self._random = rng or random.Random()  # noqa: S311  spreads attempts, hides nothing
        self._failures = 0

    def wait(self, asked: float = 0.0) -> float:
        """Seconds until the next attempt, at least ``asked`` (a Retry-After) as far as the bound allows."""
        full = FIRST_SECONDS * 2.0 ** min(self._failures, 30)
        self._failures += 1
        return min(self._longest, max(asked, min(full, self._longest) * self._random.uniform(0.5, 1.0)))

    def succeeded(self) -> None:
        self._failures = 0

"""When to ask again: only a server that does not answer, and never beyond the caller's own deadline.

An inference changes nothing but the sample that the device may keep of it, and each attempt carries the same sample id,
by which a second copy is known. So an attempt of which nobody can say whether it was run may be made again. What the
server has answered is never asked again: a refusal stays one, and a server that is overloaded is not helped by more.
"""

from __future__ import annotations

import random
import time

from hybridge_edge.contract.errors import DeadlineExceeded, HybridgeError, Unavailable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5


class Attempts:
    """Of one call, which may take ``timeout_s`` seconds in all.

    Attributes:
        until: the deadline, monotonic seconds.
    """

    __slots__ = ("_made", "_pause", "_retry", "timeout_s", "until")

    def __init__(self, timeout_s: float, *, retry: bool) -> None:
        self.timeout_s = timeout_s
        self.until = time.monotonic() + timeout_s
        self._retry = retry
        self._pause = FIRST_PAUSE_S
        self._made = 0

    @property
    def first(self) -> bool:
        """Whether none has failed yet."""
        return self._made == 0

    def left(self) -> float:
        """Seconds for the next attempt. Raises DeadlineExceeded where there are none."""
        if self.first:
            return self.timeout_s
        left = self.until - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"No answer within {self.timeout_s:g} s.", "Allow more time.")
        return left

    def pause_after(self, error: HybridgeError) -> float:
        """Seconds to wait before the next attempt; raises ``error`` where there shall be none."""
        self._made += 1
        if not self._retry or not isinstance(error, Unavailable):
            raise error
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311  spreads attempts, hides nothing
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)
        if time.monotonic() + pause >= self.until:
            tried = f" ({self._made} attempts within {self.timeout_s:g} s)" if self._made > 1 else ""
            raise Unavailable(f"{error.message}{tried}", error.remedy) from None
        return pause

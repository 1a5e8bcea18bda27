"""What a server can be asked, as its transport needs to know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

Part = bytes | memoryview


class Caller(Protocol):
    """Who asks, as long as it is answered."""

    def left(self) -> float | None:
        """Seconds until its deadline; None where it set none."""

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once it goes, at once where it has."""


Answer = Callable[[bytes, Caller], list[Part]]
"""A message in, the answer's message out, in parts."""


class Lane(Enum):
    """Which threads answer. Nothing of one lane waits for another one's."""

    WORK = "work"
    """As many as the listener has."""
    QUICK = "quick"
    """Asks for nothing but what is known; never waits."""
    OTHER = "other"
    """A few."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One method of the service.

    Attributes:
        answer: an exception ends the call; the listener knows which status each is. streams: takes message after
            message and answers each in turn. opened: asked when such a stream begins, closed when it ends; raises
            Refusal where there is no room for it.
    """

    answer: Answer
    lane: Lane = Lane.WORK
    streams: bool = False
    opened: Callable[[Caller], None] | None = None
    closed: Callable[[Caller], None] | None = None

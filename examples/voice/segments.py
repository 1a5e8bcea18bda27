"""From a probability a window to stretches of speech, as they end: nothing here knows a model or a server."""

from __future__ import annotations

from dataclasses import dataclass

from examples.voice.audio import WINDOW_S

BEGINS_AT, ENDS_BELOW = 0.5, 0.35
"""Silero's own defaults: below the second for SILENCE_S ends what the first began."""
SILENCE_S = 0.1
SHORTEST_S = 0.25


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech, seconds from the first sample."""

    begin: float
    end: float


class Segments:
    """Told the probabilities in order, a window each; safe for one thread."""

    def __init__(self) -> None:
        self._windows = 0
        self._begin: int | None = None
        self._quiet: int | None = None
        """The window with which the silence began that may end it."""

    @property
    def speaking(self) -> bool:
        return self._begin is not None

    def add(self, probability: float) -> Segment | None:
        """The next window's; the segment that is over with it, if one is."""
        now = self._windows
        self._windows += 1
        if self._begin is None:
            if probability >= BEGINS_AT:
                self._begin, self._quiet = now, None
            return None
        if probability >= BEGINS_AT:
            self._quiet = None
        elif probability < ENDS_BELOW and self._quiet is None:
            self._quiet = now
        if self._quiet is not None and (self._windows - self._quiet) * WINDOW_S >= SILENCE_S:
            return self._ended(self._quiet)
        return None

    def end(self) -> Segment | None:
        """The sound is over."""
        return self._ended(self._windows) if self._begin is not None else None

    def _ended(self, end: int) -> Segment | None:
        assert self._begin is not None
        found = Segment(self._begin * WINDOW_S, end * WINDOW_S)
        self._begin = self._quiet = None
        return found if found.end - found.begin >= SHORTEST_S else None

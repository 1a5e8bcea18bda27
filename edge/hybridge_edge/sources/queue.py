"""Readings in, readings out: bounded, the oldest dropped first and counted, redeliveries recognised.

A device that falls behind answers for what happens now, not for what happened a minute ago.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque

from hybridge_edge.configuration import Configuration
from hybridge_edge.sources.source import Reading, SourceCounters

QUEUE_READINGS = 512
MAX_QUEUE_READINGS = 65_536
REMEMBERED_IDS = 4096
"""How many sample ids are known again; MQTT's QoS 1 may deliver a message twice, soon after the first time."""
_log = logging.getLogger(__name__)


class ReadingQueue:
    """Between a sensor's thread, which never waits here, and the pipeline's."""

    def __init__(self, limit: int = QUEUE_READINGS) -> None:
        self._limit = limit
        self._condition = threading.Condition()
        self._readings: deque[Reading] = deque()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._received = self._taken = self._dropped = self._duplicates = self._invalid = 0
        self._late = self._lost = 0
        self._finished = False

    @classmethod
    def of(cls, configuration: Configuration) -> ReadingQueue:
        """As the setting sourceQueue says, in readings. Raises UsageError."""
        return cls(configuration.integer("sourceQueue", QUEUE_READINGS, 1, MAX_QUEUE_READINGS))

    def offer(self, reading: Reading) -> None:
        """Take one reading; the oldest goes where there is no room."""
        with self._condition:
            self._received += 1
            if reading.sample_id in self._seen:
                self._duplicates += 1
                return
            self._seen[reading.sample_id] = None
            if len(self._seen) > REMEMBERED_IDS:
                self._seen.popitem(last=False)
            if len(self._readings) >= self._limit:
                self._readings.popleft()
                self._dropped += 1
                first = self._dropped == 1
            else:
                first = False
            self._readings.append(reading)
            self._condition.notify()
        if first:
            _log.warning("The pipeline falls behind its source: the oldest readings are dropped from now on.")

    def refuse(self, reason: str) -> None:
        """Count something that came and is no reading."""
        with self._condition:
            self._received += 1
            self._invalid += 1
        _log.warning("A reading was not taken: %s", reason)

    def missed(self, moments: int) -> None:
        """Count moments of a rate that went by without a reading."""
        with self._condition:
            self._late += moments

    def lost(self) -> None:
        """Count that the device or the connection went away."""
        with self._condition:
            self._lost += 1

    def finish(self) -> None:
        """No reading will come any more."""
        with self._condition:
            self._finished = True
            self._condition.notify_all()

    @property
    def ended(self) -> bool:
        """Whether none will come and none waits."""
        with self._condition:
            return self._finished and not self._readings

    def next(self, seconds: float) -> Reading | None:
        """The oldest reading that waits, or None where none came within ``seconds``."""
        with self._condition:
            if not self._readings and not self._finished:
                self._condition.wait(seconds)
            if not self._readings:
                return None
            self._taken += 1
            return self._readings.popleft()

    def counters(self) -> SourceCounters:
        with self._condition:
            return SourceCounters(
                self._received, self._taken, self._dropped, self._duplicates, self._invalid, self._late, self._lost
            )

    def close(self) -> None:
        with self._condition:
            self._condition.notify_all()

"""How many messages are answered at once, by lane, and what waits for its turn."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from hybridge_edge.http2.verbs import Lane

if TYPE_CHECKING:
    from hybridge_edge.http2.channel import Channel
    from hybridge_edge.http2.stream import Stream

OTHERS = 4
"""Messages of Lane.OTHER at once."""
MAX_QUEUE = 512
"""Messages that wait, in each lane."""


@dataclass(frozen=True, slots=True)
class Work:
    """A message to answer."""

    channel: Channel
    stream: Stream
    message: bytes


class _Lane:
    def __init__(self, most: int) -> None:
        self.free = most
        self.queue: deque[Work] = deque()


class Places:
    """Bounds two lanes; of Lane.QUICK everything runs at once.

    Args:
        most: messages of Lane.WORK at once.
    """

    def __init__(self, most: int) -> None:
        self._lock = Lock()
        self._lanes = {Lane.WORK: _Lane(most), Lane.OTHER: _Lane(OTHERS)}

    def take(self, work: Work) -> bool | None:
        """True: run it now. False: it waits, and somebody who leaves will run it. None: there is no room to wait."""
        kind = work.stream.verb.lane
        if kind is Lane.QUICK:
            return True
        lane = self._lanes[kind]
        with self._lock:
            if lane.free:
                lane.free -= 1
                return True
            if len(lane.queue) >= MAX_QUEUE:
                return None
            lane.queue.append(work)
            return False

    def leave(self, kind: Lane) -> Work | None:
        """What to run next in the place that was had; None where it is given back."""
        if kind is Lane.QUICK:
            return None
        lane = self._lanes[kind]
        with self._lock:
            while lane.queue:
                work = lane.queue.popleft()
                if not work.stream.ended:
                    return work
            lane.free += 1
            return None

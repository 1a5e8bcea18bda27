"""Where each of the last samples that were kept stands on its way to the cloud, by sample id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from threading import Lock

from hybridge_edge.spool import Cursor

MAX_TRACES = 4096
"""Samples remembered; the oldest is forgotten first."""


class Where(str, Enum):
    """A sample's place. RETURNED: in the cloud. UNKNOWN: never kept, or forgotten."""

    WAITING = "waiting"
    CAPTURED = "captured"
    RETURNED = "returned"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Trace:
    """A place, the record it has in the spool, and why it was dropped."""

    where: Where
    epoch: str = ""
    seq: int = 0
    reason: str = ""


class Traces:
    """The table of them; safe to share between threads."""

    def __init__(self, limit: int = MAX_TRACES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._traces: OrderedDict[str, Trace] = OrderedDict()

    def waiting(self, sample_id: str) -> None:
        """It was chosen and goes to the disk next."""
        self._put(sample_id, Trace(Where.WAITING))

    def captured(self, sample_ids: Iterable[str], epoch: str, first_seq: int) -> None:
        """They are on the disk, as records that follow each other."""
        for seq, sample_id in enumerate(sample_ids, first_seq):
            self._put(sample_id, Trace(Where.CAPTURED, epoch, seq))

    def dropped(self, sample_ids: Iterable[str], reason: str) -> None:
        for sample_id in sample_ids:
            self._put(sample_id, Trace(Where.DROPPED, reason=reason))

    def find(self, sample_id: str, cursor: Cursor) -> Trace:
        """Where it stands now; ``cursor`` says what the uplink has brought to the cloud."""
        with self._lock:
            trace = self._traces.get(sample_id, Trace(Where.UNKNOWN))
        if trace.where is Where.CAPTURED and cursor.epoch == trace.epoch and trace.seq <= cursor.seq:
            return Trace(Where.RETURNED, trace.epoch, trace.seq)
        return trace

    def _put(self, sample_id: str, trace: Trace) -> None:
        with self._lock:
            self._traces[sample_id] = trace
            self._traces.move_to_end(sample_id)
            while len(self._traces) > self._limit:
                self._traces.popitem(last=False)

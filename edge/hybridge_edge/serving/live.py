"""A share of real requests answered by the version before too, beside the traffic, to compare the two.

A bounded queue between a request's thread and ours: where it is full, or the device is busy, the comparison is dropped
and nobody waits.
"""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Lock, Thread

from hybridge_edge.arrays import held_bytes
from hybridge_edge.engine import Array, Arrays
from hybridge_edge.serving.evidence import comparable, disagreements
from hybridge_edge.serving.residents import Resident, Residents
from hybridge_edge.serving.runner import Runner

_LOG = logging.getLogger(__name__)
MAX_WAITING = 32
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of inputs that wait; they are views of their requests' bytes."""
BUSY_S = 1.0
"""How long a comparison waits for its turn before it is dropped."""
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    resident: Resident
    inputs: Arrays
    output: Array
    rows: int
    size: int


class LiveComparison:
    """Compares in a thread of its own.

    Args:
        share: of requests, 0 to 1.
    """

    def __init__(self, residents: Residents, runner: Runner, share: float, rng: random.Random | None = None) -> None:
        self._residents = residents
        self._runner = runner
        self.share = share
        """Of requests, from the next one on."""
        self._random = rng or random.Random()  # noqa: S311  chooses samples, hides nothing
        self._queue: Queue[_Answered | None] = Queue(MAX_WAITING)
        self._lock = Lock()
        self._waiting_bytes = 0
        self._closing = Event()
        self._thread = Thread(target=self._run, name="live-comparison", daemon=True)
        self.dropped = 0
        """Chosen, and not compared for want of room, of time, or of a version that fits."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Drop what waits, let the run under way end."""
        self._closing.set()
        with suppress(Full):  # then the thread is busy, and looks at the flag next
            self._queue.put_nowait(None)
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)

    def offer(self, resident: Resident, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """A request that ``resident`` answered; never waits, never raises."""
        if resident.manifest.states:
            return  # the version before has not seen what this one's state is made of
        if not resident.against or self._random.random() >= self.share or not resident.manifest.confidence_output:
            return
        size = sum(map(held_bytes, inputs.values()))
        with self._lock:
            room = self._waiting_bytes + size <= MAX_WAITING_BYTES
            self._waiting_bytes += size if room else 0
            self.dropped += not room
        if not room:
            return
        answered = _Answered(resident, inputs, outputs[resident.manifest.confidence_output], rows, size)
        try:
            self._queue.put_nowait(answered)
        except Full:
            self._taken(answered, compared=False)

    def _run(self) -> None:
        while not self._closing.is_set():
            answered = self._queue.get()
            if answered is None:
                return
            compared = False
            try:
                compared = self._compare(answered)
            except Exception as error:  # the version before fails where this one answered: it is not the one judged
                _LOG.warning("A comparison with the version before failed: %s", error)
            finally:
                self._taken(answered, compared=compared)

    def _taken(self, answered: _Answered, *, compared: bool) -> None:
        with self._lock:
            self._waiting_bytes -= answered.size
            self.dropped += not compared

    def _compare(self, answered: _Answered) -> bool:
        now = answered.resident
        with self._residents.lease_standby(now.manifest.name, now.against) as before:
            if before is None or not comparable(now.manifest, before.manifest):
                return False
            before.signature.check(answered.inputs)
            result = self._runner.beside(before, answered.inputs, BUSY_S)
        output = now.manifest.confidence_output
        differ = disagreements(output, answered.rows, {output: answered.output}, result.outputs)
        now.tally.compared(answered.rows, differ)
        return True

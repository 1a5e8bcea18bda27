"""Answers a share of the requests a second time by the model's shadow, in spare time, to compare the two versions.

Nothing of it stands in a request's way. A request leaves its inputs and its answer in a bounded queue, from which the
oldest go where it is full, and wakes nobody. A thread of its own looks for a lull: a moment in which no request is
inside or waits, and none has been for LULL_S. A run there takes no place of the gate, and the next request to come ends
it (``Runner.in_lull``). Where there are no lulls nothing is compared, and what was not is counted.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from dataclasses import dataclass
from threading import Event, Lock, Thread

from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.engine import Array, Arrays, EngineResult
from hybridge_edge.serving.evidence import Paired, comparable, disagreements
from hybridge_edge.serving.guards import object_to, stricter
from hybridge_edge.serving.residents import Resident, Residents
from hybridge_edge.serving.runner import Interrupted, Runner
from hybridge_edge.serving.shadow_tally import Compared, ShadowReading, ShadowTally
from hybridge_edge.serving.statistics import scores_of

_LOG = logging.getLogger(__name__)
MAX_WAITING = 32
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of inputs and answers that wait; they are views of their requests' bytes."""
LULL_S = 0.002
"""For how long no request must have been inside: the answer before has left, and the next is not on its way in."""
STALE_S = 10.0
"""What waited this long for a lull is dropped: there are none."""
TRIES = 5
"""Runs of one input that requests may end before it is dropped."""
TIMED_EVERY = 2
"""Of so many inputs one is answered by both versions once more, in turns, to time them under the same conditions."""
POLL_S = 0.002
IDLE_POLL_S = 0.05
"""How often an empty queue is looked at. Nobody wakes the thread: waking takes the interpreter from requests.

For a lull it looks after POLL_S, and where there is none, later and later, up to this.
"""
_CLOSE_S = 5.0
DROPPED = ("queue-full", "no-lull", "interrupted", "unfit", "gone")
"""Why a chosen input was not compared: newer ones came; no lull within STALE_S; requests ended TRIES runs; it is none
of the shadow's inputs; the version that answered it, or the shadow, answers no more."""


@dataclass(slots=True, eq=False)
class _Answered:
    first: Resident
    inputs: Arrays
    output: Array | None
    rows: int
    size: int
    at: float
    tries: int = 0


class Shadowing:
    """Runs shadows in a thread of its own, which the first shadow starts.

    Args:
        share: of requests, 0 to 1.
    """

    def __init__(self, residents: Residents, runner: Runner, share: float, rng: random.Random | None = None) -> None:
        self._residents = residents
        self._runner = runner
        self.share = share
        """Of requests, from the next one on."""
        self._random = rng or random.Random()  # noqa: S311  chooses samples, hides nothing
        self._lock = Lock()
        self._queue: deque[_Answered] = deque()
        self._waiting_bytes = 0
        self._dropped: dict[str, Counter[str]] = {}
        self._turn = 0
        self._closing = Event()
        self._thread: Thread | None = None

    def stand(self, shadow: Resident, first: Resident, paired: Paired) -> None:
        """Have ``shadow`` stand beside ``first``, which answers, from now on."""
        shadow.shadow_tally = _tally(shadow, first, paired)
        with self._lock:
            self._dropped[shadow.manifest.name] = Counter()
        self._residents.stand_beside(shadow)
        if self._thread is None:
            thread = Thread(target=self._run, name="shadow", daemon=True)
            thread.start()  # before anybody may wait for its end
            self._thread = thread

    def close(self) -> None:
        """Drop what waits, let the run under way end."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def offer(self, first: Resident, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """A request that ``first`` answered; never waits for a run, never raises."""
        if self._residents.shadow(first.manifest.name) is None or self._random.random() >= self.share:
            return
        output = outputs.get(first.manifest.confidence_output)
        size = sum(array.nbytes for array in inputs.values()) + (0 if output is None else output.nbytes)
        answered = _Answered(first, inputs, output, rows, size, time.monotonic())
        with self._lock:
            self._queue.append(answered)
            self._waiting_bytes += size
            while len(self._queue) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
                self._drop(self._queue.popleft(), "queue-full")

    def readings(self) -> tuple[ShadowReading, ...]:
        """Every shadow's counts, by model."""
        tallies = (shadow.shadow_tally for shadow in self._residents.shadows())
        return tuple(tally.reading() for tally in tallies if tally is not None)

    def dropped(self, model: str) -> tuple[tuple[str, int], ...]:
        """How many chosen inputs of a model were not compared since its shadow stands there, by reason of DROPPED."""
        with self._lock:
            counts = self._dropped.get(model, Counter())
            return tuple((reason, counts[reason]) for reason in DROPPED)

    def _drop(self, answered: _Answered, reason: str) -> None:
        """It is out of the queue. The lock is held."""
        self._waiting_bytes -= answered.size
        self._dropped.setdefault(answered.first.manifest.name, Counter())[reason] += 1

    def _run(self) -> None:
        pause = POLL_S
        while not self._closing.is_set():
            if not self._queue:
                self._closing.wait(IDLE_POLL_S)
            elif not self._runner.gate.is_lull(LULL_S):
                self._forget_stale()
                self._closing.wait(pause)
                pause = min(2 * pause, IDLE_POLL_S)
            elif (answered := self._take()) is not None:
                pause = POLL_S
                self._answer(answered)

    def _forget_stale(self) -> None:
        with self._lock:
            while self._queue and time.monotonic() - self._queue[0].at > STALE_S:
                self._drop(self._queue.popleft(), "no-lull")

    def _take(self) -> _Answered | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def _answer(self, answered: _Answered) -> None:
        reason = ""
        try:
            reason = self._compare(answered)
        except Interrupted:
            answered.tries += 1
            with self._lock:
                if answered.tries < TRIES:
                    self._queue.appendleft(answered)  # its bytes are counted still
                else:
                    self._drop(answered, "interrupted")
            return
        except Exception:  # ours: the thread goes on, and what it lacks shows
            _LOG.exception("A comparison with a shadow failed")
            reason = "unfit"
        with self._lock:
            if reason:
                self._drop(answered, reason)
            else:
                self._waiting_bytes -= answered.size

    def _compare(self, answered: _Answered) -> str:
        """Run the shadow and count. Returns why nothing was, "" where it was. Raises Interrupted."""
        first = answered.first
        with self._residents.lease_pair(first) as shadow:
            if shadow is None:
                return "gone"
            tally = shadow.shadow_tally
            if tally is None or tally.against != first.digest:  # another version answers since: counts begin anew
                tally = shadow.shadow_tally = _tally(shadow, first, Paired())
            try:
                shadow.signature.check(answered.inputs)
            except HybridgeError:
                return "unfit"
            self._turn += 1
            timed = self._turn % TIMED_EVERY == 0
            first_us = self._time(first, answered) if timed and self._turn % (2 * TIMED_EVERY) == 0 else 0
            try:
                result = self._runner.in_lull(shadow, answered.inputs, LULL_S)
            except Interrupted:
                raise
            except Exception as error:
                _LOG.warning("%s %s failed as a shadow: %s", first.manifest.name, shadow.manifest.version, error)
                tally.failed()
                return ""
            if timed and not first_us:
                first_us = self._time(first, answered)
            tally.compared(_compared(shadow, answered, result, first_us))
            return ""

    def _time(self, first: Resident, answered: _Answered) -> int:
        """How long the version that answers takes for the same input now, microseconds; 0 where it was interrupted."""
        try:
            result = self._runner.in_lull(first, answered.inputs, LULL_S)
        except Exception:  # it has answered once: what it does now counts against nobody
            return 0
        return max(1, result.features_us + result.infer_us)


def _tally(shadow: Resident, first: Resident, paired: Paired) -> ShadowTally:
    manifest = shadow.manifest
    return ShadowTally(
        manifest.name,
        manifest.version,
        shadow.digest,
        shadow.engine.provider,
        first.digest,
        first.manifest.version,
        paired,
    )


def _compared(shadow: Resident, answered: _Answered, result: EngineResult, first_us: int) -> Compared:
    guards = shadow.manifest.guards
    objection = object_to(guards, result.outputs) if guards else None
    objection = stricter(objection, shadow.constancy.object_to(answered.inputs, result.outputs))
    took_us = result.features_us + result.infer_us
    if answered.output is None or not comparable(shadow.manifest, answered.first.manifest):
        return Compared(took_us, first_us, objection is not None, 0, 0)
    output, rows = shadow.manifest.confidence_output, answered.rows
    return Compared(
        took_us,
        first_us,
        guarded=objection is not None,
        rows=rows,
        disagreed=disagreements(output, rows, result.outputs, {output: answered.output}),
        scores=tuple(scores_of(result.outputs[output], rows)),
        first_scores=tuple(scores_of(answered.output, rows)),
    )

"""Requests that belong together: who is next in a sequence, what its last run left, and when it is forgotten.

A sequence runs on the digest it began with, one request at a time in the order they came. Its state changes when a
request is answered and at no other moment: what fails leaves it as it was. Nothing of it is on a disk.

Bounded in number and bytes. Where there is no room for a new one, the one that was idle longest gives way if it was
idle for IDLE_S seconds at least; a sequence that runs never gives way to one that begins, which is Overloaded instead.
Callers from the network have names, and a share of the room, of their own.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING, NamedTuple

from hybridge_edge.contract.errors import Cancelled, DeadlineExceeded, HybridgeError, Overloaded, SequenceLost
from hybridge_edge.serving.call import LOCAL, Call

if TYPE_CHECKING:  # the supervisor reads the limits' defaults from here, and imports no numpy
    from hybridge_edge.contract.manifest import Manifest
    from hybridge_edge.engine import Arrays

DEFAULT_COUNT = 64
DEFAULT_MEGABYTES = 64
DEFAULT_SECONDS = 60.0
IDLE_S = 10.0
NETWORK_SHARE = 0.75
"""Of the room, for callers from the network."""
MAX_WAITING = 16
"""Requests of one sequence that wait for the one before."""
MAX_WAITING_TOGETHER = 64
"""Of all sequences; of callers from the network at most their share. Each holds a thread."""
MAX_WAIT_S = 5.0
MAX_REMEMBERED = 256
"""Sequences of which is still known why they are gone."""
SHOWN = 64
ENDED, EXPIRED, EVICTED, GONE = "ended", "expired", "evicted", "version-gone"
_MEGABYTE = 1024 * 1024


class Step(NamedTuple):
    """A request's place in a sequence: its id, a number or a text; whether it is the first one, and the last."""

    id: int | str
    start: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True)
class SequenceCounts:
    """Of all models. ``live`` and ``bytes`` are now, the others since the server started; ``ended`` by reason."""

    live: int = 0
    bytes: int = 0
    begun: int = 0
    ended: tuple[tuple[str, int], ...] = ((ENDED, 0), (EVICTED, 0), (EXPIRED, 0), (GONE, 0))
    refused: int = 0


class Turn:
    """One request's turn in a sequence.

    Attributes:
        digest: of the package that the sequence runs on; "" where it begins. state: what its last run left.
    """

    __slots__ = ("_sequence", "_sequences", "digest", "state", "step")

    def __init__(self, sequences: Sequences, sequence: _Sequence, step: Step) -> None:
        self._sequences = sequences
        self._sequence = sequence
        self.step = step
        self.digest = "" if step.start else sequence.digest
        self.state = None if step.start else sequence.state

    def begins(self, manifest: Manifest) -> None:
        """It begins on that package. Raises Overloaded where there is no room for it."""
        self._sequences.make_room(self._sequence, manifest)

    def answered(self, digest: str, state: Arrays) -> None:
        """The request is answered: this is the state from now on, or the sequence's end."""
        self._sequences.keep(self._sequence, self.step, digest, state)

    def gone(self) -> SequenceLost:
        """The package it runs on is not loaded any more; the error to raise."""
        return self._sequences.lose(self._sequence)


_Key = tuple[str, bool, "int | str"]
"""The model, whether its callers are the device's own, and what they call it."""


class _Sequence:
    __slots__ = ("begun", "busy", "digest", "key", "size", "state", "used", "waiting")

    def __init__(self, key: _Key, now: float) -> None:
        self.key = key
        self.digest = ""
        self.state: Arrays | None = None
        self.begun = False
        self.size = 0
        """Bytes that are reserved for it; 0 until it has begun, or is about to."""
        self.busy = False
        self.used = now
        self.waiting: deque[Event] = deque()

    @property
    def idle(self) -> bool:
        return not self.busy and not self.waiting

    @property
    def local(self) -> bool:
        return self.key[1]


class Sequences:
    """The table of them; safe to share between threads.

    Attributes:
        count, megabytes: how many there may be, and what their states may take, in MiB. seconds: how long one may be
            idle. All may be changed at any time; what is there already stays.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = DEFAULT_COUNT
        self.megabytes = DEFAULT_MEGABYTES
        self.seconds = DEFAULT_SECONDS
        self._clock = clock
        self._lock = Lock()
        self._known: OrderedDict[_Key, _Sequence] = OrderedDict()
        """Least recently used first."""
        self._why: OrderedDict[_Key, str] = OrderedDict()
        self._begun = self._refused = 0
        self._taken = {True: (0, 0), False: (0, 0)}
        """How many have room and how many bytes: of the device's own callers, of the network's."""
        self._waiting = {True: 0, False: 0}
        """Requests that wait for their turn: of the device's own callers, of the network's."""
        self._ended = dict.fromkeys((ENDED, EVICTED, EXPIRED, GONE), 0)

    def counts(self) -> SequenceCounts:
        with self._lock:
            self._expire()
            live = sum(one.begun for one in self._known.values())
            taken = sum(size for _, size in self._taken.values())
            return SequenceCounts(live, taken, self._begun, tuple(sorted(self._ended.items())), self._refused)

    @contextmanager
    def turn(self, model: str, step: Step, call: Call) -> Iterator[Turn]:
        """Wait for the requests of the sequence that came before, and hold it.

        Raises:
            SequenceLost: it does not run here, and this is not its first request. Overloaded: MAX_WAITING requests of
            it wait already, or MAX_WAIT_S went by. DeadlineExceeded, Cancelled: the caller's time was up, or it has
            gone, meanwhile.
        """
        sequence = self._enter((model, call.peer == LOCAL, step.id), step, call)
        try:
            if not step.start and not sequence.begun:
                raise self._lost(sequence.key)
            yield Turn(self, sequence, step)
        finally:
            self._leave(sequence)

    def make_room(self, sequence: _Sequence, manifest: Manifest) -> None:
        """Reserve what the sequence takes; see ``Turn.begins``."""
        size = sum(one.size for one in manifest.states)
        if size > self.megabytes * _MEGABYTE:
            with self._lock:
                self._refused += 1
            raise Overloaded(
                f"A sequence of {manifest.name} takes {size} bytes; all together may take {self.megabytes} MiB here.",
                "Raise the setting sequenceMegabytes.",
            )
        with self._lock:
            self._expire()
            while not self._fits(sequence, size):
                oldest = self._oldest(sequence)
                if oldest is None:
                    self._refused += 1
                    raise Overloaded("There is no room for another sequence.", "End one that is over, or begin later.")
                self._remove(oldest, EVICTED)
            self._reserve(sequence, size)

    def keep(self, sequence: _Sequence, step: Step, digest: str, state: Arrays) -> None:
        """See ``Turn.answered``."""
        with self._lock:
            if step.start:
                self._begun += 1
                if sequence.begun:
                    self._ended[ENDED] += 1  # the one that had this name
                self._why.pop(sequence.key, None)
            sequence.begun, sequence.digest, sequence.state = True, digest, state
            if step.end:
                self._ended[ENDED] += 1
                self._forget(sequence)

    def lose(self, sequence: _Sequence) -> SequenceLost:
        """See ``Turn.gone``."""
        with self._lock:
            self._ended[GONE] += 1
            self._say(sequence.key, GONE)
            self._forget(sequence)
        return self._lost(sequence.key)

    def _enter(self, key: _Key, step: Step, call: Call) -> _Sequence:
        with self._lock:
            self._expire()
            sequence = self._known.get(key)
            if sequence is None:
                if not step.start:
                    raise self._lost(key)
                sequence = self._known[key] = _Sequence(key, self._clock())
            if sequence.idle:
                sequence.busy = True
                return sequence
            if len(sequence.waiting) >= MAX_WAITING:
                raise Overloaded(
                    f"{MAX_WAITING} requests of sequence {_shown(key)} wait already.", "Wait for their answers."
                )
            network_full = self._waiting[False] >= MAX_WAITING_TOGETHER * NETWORK_SHARE
            if sum(self._waiting.values()) >= MAX_WAITING_TOGETHER or (not sequence.local and network_full):
                raise Overloaded("Too many requests of sequences wait already.", "Wait for each answer.")
            turn = Event()
            sequence.waiting.append(turn)
            self._waiting[sequence.local] += 1
        self._wait(sequence, turn, call)
        return sequence

    def _wait(self, sequence: _Sequence, turn: Event, call: Call) -> None:
        """Until whoever was before hands over. Where it raises, it is out of the line, or has handed over itself."""
        call.when_cancelled(turn.set)
        try:
            turn.wait(max(min(call.left(), MAX_WAIT_S), 0.0))
        finally:
            call.when_cancelled(None)
        with self._lock:
            self._waiting[sequence.local] -= 1
            waits = turn in sequence.waiting  # where not, whoever left has taken it out: the sequence is ours
            if not waits and not call.cancelled:
                return
            if waits:
                sequence.waiting.remove(turn)
            else:
                self._hand_over(sequence)
        raise _not_its_turn(call)

    def _leave(self, sequence: _Sequence) -> None:
        with self._lock:
            self._hand_over(sequence)

    def _hand_over(self, sequence: _Sequence) -> None:
        """To whoever waits longest. The lock is held."""
        if sequence.waiting:
            sequence.waiting.popleft().set()
            return
        sequence.busy = False
        self._settle(sequence)

    def _settle(self, sequence: _Sequence) -> None:
        """It is idle from now on, or has not begun and is nobody's. The lock is held."""
        if self._known.get(sequence.key) is not sequence:
            return
        if not sequence.begun:
            self._reserve(sequence, 0)
            del self._known[sequence.key]
            return
        sequence.used = self._clock()
        self._known.move_to_end(sequence.key)

    def _forget(self, sequence: _Sequence) -> None:
        """Its state is gone; requests of it that wait find that out. The lock is held."""
        self._reserve(sequence, 0)
        sequence.begun, sequence.state = False, None

    def _remove(self, sequence: _Sequence, why: str) -> None:
        self._ended[why] += 1
        self._say(sequence.key, why)
        self._forget(sequence)
        del self._known[sequence.key]

    def _expire(self) -> None:
        """Whatever was idle for too long. The lock is held."""
        before = self._clock() - self.seconds
        doomed = []
        for one in self._known.values():
            if one.idle:
                if one.used >= before:
                    break  # and so are all idle ones behind it
                doomed.append(one)
        for one in doomed:
            self._remove(one, EXPIRED)

    def _reserve(self, sequence: _Sequence, size: int) -> None:
        """Room for its states, or none any more. The lock is held."""
        count, taken = self._taken[sequence.local]
        count += bool(size) - bool(sequence.size)
        self._taken[sequence.local] = count, taken + size - sequence.size
        sequence.size = size

    def _fits(self, sequence: _Sequence, size: int) -> bool:
        """Whether there is room for its states, and, where it is the network's, in the network's share too."""
        all_count, all_taken = (sum(both) for both in zip(*self._taken.values(), strict=True))
        count, taken = self._taken[sequence.local]
        has, more = bool(sequence.size), size - sequence.size
        if all_count - has >= self.count or all_taken + more > self.megabytes * _MEGABYTE:
            return False
        share = 1.0 if sequence.local else NETWORK_SHARE
        return count - has < max(int(self.count * share), 1) and taken + more <= self.megabytes * _MEGABYTE * share

    def _oldest(self, sequence: _Sequence) -> _Sequence | None:
        """Which one gives way to ``sequence``: never a local one to one of the network."""
        before = self._clock() - IDLE_S
        for one in self._known.values():
            if one.size and one.idle and one is not sequence and (sequence.local or not one.local):
                return one if one.used <= before else None
        return None

    def _say(self, key: _Key, why: str) -> None:
        self._why[key] = why
        self._why.move_to_end(key)
        if len(self._why) > MAX_REMEMBERED:
            self._why.popitem(last=False)

    def _lost(self, key: _Key) -> SequenceLost:
        return SequenceLost(f"Sequence {_shown(key)} of {key[0][:SHOWN]} {self._reason(key)}.", _AGAIN)

    def _reason(self, key: _Key) -> str:
        return {
            EXPIRED: f"was idle for more than {self.seconds:g} s and is forgotten",
            EVICTED: "was idle and had to make room for another one",
            GONE: "ran on a version that is no longer loaded",
        }.get(self._why.get(key, ""), "does not run here: it never began, it has ended, or the server was started anew")


_AGAIN = "Start it again: sequence_start on its first request."


def _shown(key: _Key) -> str:
    return repr(key[2])[:SHOWN]


def _not_its_turn(call: Call) -> HybridgeError:
    if call.cancelled:
        return Cancelled("The caller has gone.")
    if call.left() <= 0:
        return DeadlineExceeded(
            "The caller's time was up before the request's turn in its sequence came.", "Send later."
        )
    return Overloaded("The request waited too long for its turn in its sequence.", "Wait for each answer.")

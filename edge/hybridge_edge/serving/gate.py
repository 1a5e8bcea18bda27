"""Bounds how many requests run and how many wait, decides whose turn it is, and puts together what waits.

A request that finds a place free runs at once in its own thread. Otherwise it waits in its lane; whoever leaves hands
its place to the next and gives it, to run in one go, whatever else waits for the same model. Nothing is ever delayed to
make a batch larger.

Two lanes, so that the network cannot shut out the device's own programs: these have room of their own to wait in and
are asked first, three times out of four. (What one host may have here the front counts.) Work whose caller's time is
up, or who has gone, is never run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from threading import Lock
from typing import Any

from hybridge_edge.contract.errors import Cancelled, DeadlineExceeded, HybridgeError, Overloaded
from hybridge_edge.serving.call import LOCAL, Call

MAX_WAITING = 64
LOCAL_WAITING = 16
"""Of MAX_WAITING, kept for callers on the Unix socket."""
MAX_WAIT_S = 5.0
LOCAL_TURNS = 3
"""Turns the local lane gets before the network's, while both wait."""
IDLE_POLL_S = 0.002
_LATER = "Send fewer at once, or try again later."


class _State(Enum):
    WAITING = auto()
    LEADS = auto()
    TAKEN = auto()
    """Another one's run includes it."""
    GONE = auto()
    DONE = auto()


class Ticket:
    """One request's place in the line.

    Attributes:
        call: whose it is. key: what it may be put together with: tickets of the same key, or nothing where it is None.
        rows, most: of the request, and of one run of its key. work: what the runner needs. result, error: what came.
    """

    __slots__ = ("call", "company", "error", "key", "most", "result", "rows", "state", "waiter", "work")

    def __init__(self, call: Call, key: object = None, rows: int = 1, most: int = 1, work: Any = None) -> None:
        self.call = call
        self.key = key
        self.rows = rows
        self.most = most
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.state = _State.WAITING
        self.company: tuple[Ticket, ...] = ()
        self.waiter: Any = None


Execute = Callable[[Sequence[Ticket]], None]
"""Runs tickets of one key in one go and gives each its ``result`` or its ``error``."""


class Gate:
    """At most ``running`` inside, at most ``waiting`` in front of it, none longer than MAX_WAIT_S seconds."""

    def __init__(self, running: int, waiting: int = MAX_WAITING, local: int = LOCAL_WAITING) -> None:
        self._lock = Lock()
        self._free = running
        self._room = waiting
        self._network_room = max(waiting - local, 0)
        self._local: deque[Ticket] = deque()
        self._network: deque[Ticket] = deque()
        self._turns = 0
        self._places = running
        self._last_left = time.monotonic()
        self._interrupt: Callable[[], None] | None = None

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._local) + len(self._network)

    def run(self, ticket: Ticket, execute: Execute) -> Any:
        """Wait for the ticket's turn, have it executed, alone or in company, and return its result.

        Raises:
            Overloaded: no room to wait, or no turn within MAX_WAIT_S. DeadlineExceeded, Cancelled: its caller's time
            was up, or its caller has gone, before its turn. Else what ``execute`` gave it as an error.
        """
        if self._wait_for_turn(ticket):
            batch = (ticket, *ticket.company)
            try:
                execute(batch)
            except BaseException as error:
                for one in batch:
                    one.error = one.error or error
                raise
            finally:
                self._leave(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    @contextmanager
    def enter(self, timeout_s: float) -> Iterator[None]:
        """Hold one of the places alone, for work beside the requests. Raises Overloaded after ``timeout_s`` seconds."""
        ticket = Ticket(Call(timeout_s))
        try:
            self._wait_for_turn(ticket)
        except DeadlineExceeded as error:  # nobody's deadline but this wait's
            raise Overloaded(error.message, error.remedy) from None
        try:
            yield
        finally:
            self._leave(ticket)

    def wait_for_idle(self, seconds: float) -> None:
        """Until a place is free that nobody waits for, at most ``seconds``.

        For work beside the requests, which asks before each run and then enters like anybody else. It polls, so that
        it never takes the word that a place is free from a request that waits for it.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._free > 0 and not self.waiting:
                return
            time.sleep(IDLE_POLL_S)

    def is_lull(self, seconds: float) -> bool:
        """Whether nobody is inside or waits, and nobody has been for that long."""
        return self._free == self._places and not self.waiting and time.monotonic() - self._last_left >= seconds

    def begin_in_lull(self, seconds: float, interrupt: Callable[[], None]) -> bool:
        """Whether work that takes no place may begin now; then ``interrupt`` is called as soon as a ticket comes.

        So whoever comes runs at once, beside what is just being interrupted, and never stands behind it. One piece of
        such work at a time; ``end_in_lull`` ends it. ``interrupt`` is called under the gate's lock: it must be short.
        """
        with self._lock:
            if not self.is_lull(seconds):
                return False
            self._interrupt = interrupt
            return True

    def end_in_lull(self) -> None:
        """The work has ended: nobody needs to interrupt it any more."""
        with self._lock:
            self._interrupt = None

    def _wait_for_turn(self, ticket: Ticket) -> bool:
        """Whether the ticket has a place and leads; False where somebody else has run it. Raises as ``run``."""
        with self._lock:
            if self._interrupt is not None:
                self._interrupt()
                self._interrupt = None
            if self._free and not self.waiting:
                self._free -= 1
                ticket.state = _State.LEADS
                return True
            self._line_up(ticket)
        call = ticket.call
        call.when_cancelled(lambda: self._withdraw(ticket, Cancelled("The caller has gone.")))
        try:
            if not ticket.waiter.acquire(timeout=max(min(call.left(), MAX_WAIT_S), 0.0)):
                self._withdraw(ticket, _too_late(call))
                ticket.waiter.acquire(timeout=max(call.left(), 0.0))
        finally:
            call.when_cancelled(None)
        if ticket.state is _State.TAKEN:
            # It runs in another one's batch, which goes on: only this caller's time is up.
            raise DeadlineExceeded("The caller's time was up while the request ran.", "Allow more time.")
        if ticket.state is _State.GONE and ticket.error is not None:
            raise ticket.error
        return ticket.state is _State.LEADS

    def _line_up(self, ticket: Ticket) -> None:
        """To the end of its lane. The lock is held. Raises Overloaded."""
        call = ticket.call
        if call.left() <= 0:
            raise _too_late(call)
        if self.waiting >= self._room:
            raise Overloaded("Too many requests wait already.", _LATER)
        if call.peer != LOCAL and len(self._network) >= self._network_room:
            raise Overloaded("Too many requests from the network wait already.", _LATER)
        ticket.waiter = Lock()
        ticket.waiter.acquire()
        self._lane(ticket).append(ticket)

    def _lane(self, ticket: Ticket) -> deque[Ticket]:
        return self._local if ticket.call.peer == LOCAL else self._network

    def _withdraw(self, ticket: Ticket, error: HybridgeError) -> None:
        """Out of the line, if it still stands there."""
        with self._lock:
            if ticket.state is _State.WAITING:
                self._lane(ticket).remove(ticket)
                self._drop(ticket, error)

    def _drop(self, ticket: Ticket, error: HybridgeError) -> None:
        ticket.state, ticket.error = _State.GONE, error
        ticket.waiter.release()

    def _leave(self, ticket: Ticket) -> None:
        """Tell the company, and hand the place to the next one."""
        with self._lock:
            for one in ticket.company:
                one.state = _State.DONE
                one.waiter.release()
            following = self._next()
            if following is None:
                self._free += 1
                self._last_left = time.monotonic()
                return
            following.state = _State.LEADS
            following.company = self._company(following)
            following.waiter.release()

    def _next(self) -> Ticket | None:
        """The next one whose caller still waits."""
        while self._local or self._network:
            local = bool(self._local) and (not self._network or self._turns % (LOCAL_TURNS + 1) < LOCAL_TURNS)
            self._turns += 1
            ticket = (self._local if local else self._network).popleft()
            if ticket.call.left() > 0:
                return ticket
            self._drop(ticket, _too_late(ticket.call))
        return None

    def _company(self, leader: Ticket) -> tuple[Ticket, ...]:
        """What else waits for the same model and fits into one run, in order, the leader's own lane first."""
        if leader.key is None or not self.waiting:
            return ()
        rows, company = leader.rows, []
        first = self._lane(leader)
        for lane in (first, self._network if first is self._local else self._local):
            for ticket in tuple(lane):
                if ticket.key is leader.key and rows + ticket.rows <= leader.most and ticket.call.left() > 0:
                    lane.remove(ticket)
                    rows += ticket.rows
                    ticket.state = _State.TAKEN
                    company.append(ticket)
        return tuple(company)


def _too_late(call: Call) -> HybridgeError:
    if call.left() <= 0:
        return DeadlineExceeded("The caller's time was up before the request's turn came.", _LATER)
    return Overloaded("The request waited too long for its turn.", _LATER)

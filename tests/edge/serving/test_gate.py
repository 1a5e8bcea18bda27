"""Whose turn it is, who is told to go, and what runs together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Thread

import pytest

from hybridge_edge.contract.errors import Cancelled, DeadlineExceeded, HybridgeError, Overloaded
from hybridge_edge.serving.call import LOCAL, NETWORK, Call
from hybridge_edge.serving.gate import LOCAL_WAITING, MAX_WAITING, Gate, Ticket

KEY = object()


class Line:
    """A gate of one place that is held until ``open``, and what ran after it, in order."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.gate = Gate(1)
        self.ran: list[list[object]] = []
        self.pool = pool
        self._held, self._go = Event(), Event()
        self._holder = pool.submit(self._hold)
        assert self._held.wait(5)

    def _hold(self) -> None:
        with self.gate.enter(1.0):
            self._held.set()
            assert self._go.wait(20)

    def execute(self, tickets: Sequence[Ticket]) -> None:
        self.ran.append([ticket.work for ticket in tickets])
        for ticket in tickets:
            ticket.result = ticket.work

    def queue(self, work: object, call: Call, key: object = None, rows: int = 1, most: int = 1) -> Future:
        """Join the line and wait until it is in it, or was refused."""
        before = self.gate.waiting
        future = self.pool.submit(self.gate.run, Ticket(call, key, rows, most, work), self.execute)
        until = time.monotonic() + 5
        while self.gate.waiting == before and not future.done() and time.monotonic() < until:
            time.sleep(0.001)
        return future

    def open(self) -> None:
        self._go.set()
        self._holder.result(5)


@pytest.fixture
def line() -> Line:
    pool = ThreadPoolExecutor(MAX_WAITING + 8)
    one = Line(pool)
    yield one
    one._go.set()
    pool.shutdown()


def test_what_waits_for_one_model_runs_together_up_to_its_limit(line: Line) -> None:
    futures = [line.queue(number, Call(10), KEY, rows=2, most=6) for number in range(5)]
    other = line.queue("other", Call(10), object(), rows=2, most=6)
    line.open()
    assert [future.result(5) for future in futures] == [0, 1, 2, 3, 4]
    assert other.result(5) == "other"
    assert line.ran == [[0, 1, 2], [3, 4], ["other"]]


def test_what_may_not_be_put_together_runs_alone(line: Line) -> None:
    futures = [line.queue(number, Call(10)) for number in range(3)]
    line.open()
    assert [future.result(5) for future in futures] == [0, 1, 2]
    assert line.ran == [[0], [1], [2]]


def test_work_whose_time_is_up_is_not_run(line: Line) -> None:
    late, patient = line.queue("late", Call(0.05)), line.queue("patient", Call(10))
    with pytest.raises(DeadlineExceeded, match="before the request's turn"):
        late.result(5)
    line.open()
    assert patient.result(5) == "patient"
    assert line.ran == [["patient"]]


def test_work_whose_caller_has_gone_is_not_run_and_leaves_its_place_at_once(line: Line) -> None:
    call = Call(10)
    gone, patient = line.queue("gone", call), line.queue("patient", Call(10))
    call.cancel()
    with pytest.raises(Cancelled):
        gone.result(5)
    assert line.gate.waiting == 1
    line.open()
    assert patient.result(5) == "patient"
    assert line.ran == [["patient"]]


def test_callers_of_the_device_itself_have_room_when_the_network_has_none_left(line: Line) -> None:
    far = range(MAX_WAITING - LOCAL_WAITING)
    waiting = [line.queue(number, Call(20, NETWORK)) for number in far]
    with pytest.raises(Overloaded, match="from the network"):
        line.queue("one more", Call(20, NETWORK)).result(5)
    local = [line.queue(number, Call(20, LOCAL)) for number in range(LOCAL_WAITING)]
    with pytest.raises(Overloaded, match="Too many requests wait already"):
        line.queue("one more", Call(20, LOCAL)).result(5)
    line.open()
    assert [future.result(10) for future in (*waiting, *local)] == [*far, *range(LOCAL_WAITING)]


def test_local_callers_go_first_and_the_network_is_not_forgotten(line: Line) -> None:
    futures = [line.queue(("far", number), Call(20, NETWORK)) for number in range(3)]
    futures += [line.queue(("near", number), Call(20)) for number in range(6)]
    line.open()
    for future in futures:
        future.result(5)
    kinds = [work[0] for (work,) in line.ran]
    assert kinds == ["near", "near", "near", "far", "near", "near", "near", "far", "far"]


def test_an_error_of_the_run_reaches_everybody_in_it_and_the_place_comes_free(line: Line) -> None:
    def broken(tickets: Sequence[Ticket]) -> None:
        raise RuntimeError("the runtime broke")

    tickets = [Ticket(Call(10), KEY, 1, 8) for _ in range(3)]
    futures = []
    for ticket in tickets:
        futures.append(line.pool.submit(line.gate.run, ticket, broken))
        while line.gate.waiting < len(futures):
            time.sleep(0.001)
    line.open()
    for future in futures:
        with pytest.raises(RuntimeError, match="the runtime broke"):
            future.result(5)
    assert line.gate.run(Ticket(Call(1), work="next"), line.execute) == "next"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_place_is_lost_whoever_gives_up_when(seed: int) -> None:
    """Time-outs, cancellations and turns that meet at the same moment; afterwards every place is free."""
    gate, dice = Gate(2), random.Random(seed)
    plans = [
        [(dice.random() * 0.003, dice.random() * 0.003, dice.random() < 0.3) for _ in range(60)] for _ in range(12)
    ]
    ended: list[str] = []

    def caller(plan: list[tuple[float, float, bool]]) -> None:
        for patience, work, leaves in plan:
            call = Call(patience)
            if leaves:
                Thread(target=lambda call=call, wait=work: (time.sleep(wait), call.cancel())).start()

            def execute(tickets: Sequence[Ticket], work: float = work) -> None:
                time.sleep(work / 4)
                for ticket in tickets:
                    ticket.result = "ran"

            try:
                ended.append(gate.run(Ticket(call, KEY, 1, 4), execute))
            except HybridgeError as error:
                ended.append(error.code)

    callers = [Thread(target=caller, args=(plan,)) for plan in plans]
    for one in callers:
        one.start()
    for one in callers:
        one.join(30)
    assert len(ended) == 12 * 60
    assert {"ran", "DEADLINE_EXCEEDED"} <= set(ended) <= {"ran", "DEADLINE_EXCEEDED", "CANCELLED"}, f"seed {seed}"
    assert gate.waiting == 0
    with gate.enter(0.0), gate.enter(0.0):
        pass
    with gate.enter(0.0), gate.enter(0.0), pytest.raises(Overloaded), gate.enter(0.0):
        pass


def test_work_beside_the_requests_waits_for_an_idle_moment(line: Line) -> None:
    began = time.monotonic()
    line.gate.wait_for_idle(0.05)
    assert time.monotonic() - began >= 0.05  # the place was held all the time
    line.open()
    began = time.monotonic()
    line.gate.wait_for_idle(5)
    assert time.monotonic() - began < 4


def test_a_call_that_is_cancelled_before_it_waits_is_told_at_once() -> None:
    told: list[str] = []
    call = Call(1)
    call.cancel()
    call.when_cancelled(lambda: told.append("now"))
    assert told == ["now"]
    call.when_cancelled(None)
    call.cancel()
    assert told == ["now"]


def test_a_caller_in_anothers_batch_is_told_when_its_own_time_is_up(line: Line, request: pytest.FixtureRequest) -> None:
    release = Event()
    request.addfinalizer(release.set)

    def slow(tickets: Sequence[Ticket]) -> None:
        assert release.wait(10)
        for ticket in tickets:
            ticket.result = "late"

    run: Callable[[Ticket], Future] = lambda ticket: line.pool.submit(line.gate.run, ticket, slow)  # noqa: E731
    leader = run(Ticket(Call(10), KEY, 1, 8))
    while line.gate.waiting < 1:
        time.sleep(0.001)
    hasty = run(Ticket(Call(0.3), KEY, 1, 8))
    while line.gate.waiting < 2:
        time.sleep(0.001)
    line.open()
    with pytest.raises(DeadlineExceeded, match="while the request ran"):
        hasty.result(5)
    release.set()
    assert leader.result(5) == "late"

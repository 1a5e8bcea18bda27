"""Runs checked inputs on a resident model: in its turn, together with what waits for the same model, and watched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy

from hybridge_edge.contract.errors import Cancelled, DeadlineExceeded, HybridgeError
from hybridge_edge.engine import CPU, Array, Arrays, EngineResult
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate, Ticket
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.statistics import Statistics
from hybridge_edge.serving.watchdog import Watchdog

FAILURES = 3
IDLE_S = 0.02
"""How long work beside the requests waits for an idle moment."""


class Ran(NamedTuple):
    """What one request got of a run: its own rows, when the run began (monotonic ns), and what copying cost."""

    result: EngineResult
    started_ns: int
    copy_us: int = 0


class Interrupted(Exception):
    """Work in a lull did not begin, since there is none, or was ended, since a request came."""


class Runner:
    """The one way to the engines for requests. Safe to share between threads.

    Attributes:
        gate: decides whose turn it is.

    Args:
        broken: told of a resident whose accelerator failed FAILURES runs in a row, with the reason; must not block.
    """

    def __init__(
        self, gate: Gate, watchdog: Watchdog, statistics: Statistics, broken: Callable[[Resident, str], None]
    ) -> None:
        self._broken = broken
        self.gate = gate
        self._watchdog = watchdog
        self._statistics = statistics

    def run(self, resident: Resident, inputs: Arrays, rows: int, call: Call, state: Arrays | None = None) -> Ran:
        """Answer one request's inputs.

        Args:
            resident: leased by the caller. inputs: checked against its signature. rows: of the batch axis.
            state: of the request's sequence; None where it begins, or there is none. Its new value is in the result.

        Raises:
            Overloaded, DeadlineExceeded, Cancelled: see ``Gate.run``; DeadlineExceeded also where the watchdog ended
            the run. Anything else is the engine's.
        """
        together = resident.signature.batched
        ticket = Ticket(call, resident if together else None, rows, resident.batching.most, inputs)
        ran: Ran = self.gate.run(ticket, lambda tickets: self._execute(resident, tickets, state))
        return ran

    def beside(self, resident: Resident, inputs: Arrays, wait_s: float, state: Arrays | None = None) -> EngineResult:
        """Run inputs that no request waits for, alone: a moment is waited for an idle place, then as for a request.

        Raises:
            Overloaded: no place within ``wait_s`` seconds. DeadlineExceeded: the watchdog ended the run. Anything else
            is the engine's.
        """
        self.gate.wait_for_idle(IDLE_S)
        with self.gate.enter(wait_s):
            return self._once(resident, inputs, (), state)

    def in_lull(self, resident: Resident, inputs: Arrays, lull_s: float) -> EngineResult:
        """Run inputs that no request waits for, in spare time: no place is taken, and the next request ends the run.

        Args:
            resident: leased by the caller. lull_s: for how long no request must have been inside.

        Raises:
            Interrupted: not begun, or ended by a request. DeadlineExceeded: the watchdog ended it. Anything else is the
            engine's.
        """
        run = self._watchdog.begin(resident, ())

        def interrupt() -> None:
            run.asked_at = time.monotonic()  # first: the watchdog reads it once the stop is asked for
            run.stop.ask()

        try:
            if not self.gate.begin_in_lull(lull_s, interrupt):
                interrupt()  # no run took place: none of its limits was kept or broken
                raise Interrupted
            with resident.trial:
                return resident.engine.run(inputs, run.stop)
        except Interrupted:
            raise
        except Exception:
            if run.overran:
                raise _stopped(resident, overran=True, limit_s=run.limit_s) from None
            if run.stop.asked:
                raise Interrupted from None
            raise
        finally:
            self.gate.end_in_lull()
            self._watchdog.end(run)

    def _execute(self, resident: Resident, tickets: Sequence[Ticket], state: Arrays | None) -> None:
        # A model with states has no batches, so its tickets come alone.
        wanted = [ticket for ticket in tickets if _is_wanted(ticket)]
        if len(wanted) > 1 and self._together(resident, wanted):
            return
        for ticket in wanted:
            started = time.perf_counter_ns()
            try:
                result = self._once(resident, ticket.work, (ticket.call,), state)
            except Exception as error:
                ticket.error = error
                continue
            self._count(resident, ticket.rows)
            ticket.result = Ran(result, started)

    def _together(self, resident: Resident, tickets: Sequence[Ticket]) -> bool:
        """One run for all of them. False where it failed, so that each has its own answer or its own error."""
        started = time.perf_counter_ns()
        names = tuple(tickets[0].work)
        inputs = {name: numpy.concatenate([ticket.work[name] for ticket in tickets]) for name in names}
        joined = time.perf_counter_ns()
        try:
            result = self._once(resident, inputs, tuple(ticket.call for ticket in tickets))
        except DeadlineExceeded as error:
            for ticket in tickets:
                ticket.error = DeadlineExceeded(error.message, error.remedy)
            return True
        except Exception:
            return False
        self._count(resident, sum(ticket.rows for ticket in tickets))
        answered = time.perf_counter_ns()
        first = 0
        parts = []
        for ticket in tickets:
            parts.append(_part(result, first, first + ticket.rows))
            first += ticket.rows
        copy_us = (joined - started + time.perf_counter_ns() - answered) // 1000
        for ticket, part in zip(tickets, parts, strict=True):
            ticket.result = Ran(part, started, copy_us)
        return True

    def _once(
        self, resident: Resident, inputs: Arrays, calls: Sequence[Call], state: Arrays | None = None
    ) -> EngineResult:
        run = self._watchdog.begin(resident, calls)
        try:
            with resident.trial:
                if state is None:
                    result = resident.engine.run(inputs, run.stop)
                else:
                    result = resident.engine.run(inputs, run.stop, state)
            resident.failures = 0
            if resident.signature.batched:
                resident.batching.learn(len(next(iter(inputs.values()))), result.features_us + result.infer_us)
            return result
        except Exception as error:
            if run.stop.asked:
                raise _stopped(resident, overran=run.overran, limit_s=run.limit_s) from None
            self._failed(resident, error)
            raise
        finally:
            self._watchdog.end(run)

    def _failed(self, resident: Resident, error: Exception) -> None:
        """A run raised. On a CPU that is the request's or the model's doing; an accelerator may be gone."""
        if resident.engine.provider == CPU or isinstance(error, HybridgeError):
            return
        resident.failures += 1
        if resident.failures == FAILURES:
            self._broken(resident, f"{FAILURES} runs in a row failed on {resident.engine.provider}: {str(error)[:200]}")

    def _count(self, resident: Resident, rows: int) -> None:
        manifest = resident.manifest
        self._statistics.ran(manifest.name, manifest.version, resident.engine.provider, rows)


def _is_wanted(ticket: Ticket) -> bool:
    """Whether somebody waits for it still; where not, it has its error."""
    if ticket.call.cancelled:
        ticket.error = Cancelled("The caller has gone.")
    elif ticket.call.left() <= 0:
        ticket.error = DeadlineExceeded("The caller's time was up before the request's turn came.")
    return ticket.error is None


def _stopped(resident: Resident, *, overran: bool, limit_s: float) -> DeadlineExceeded:
    manifest = resident.manifest
    if overran:
        return DeadlineExceeded(
            f"A run of {manifest.name} {manifest.version} was stopped after {limit_s:g} s.", "Send a smaller input."
        )
    return DeadlineExceeded("The caller's time was up while the request ran.", "Allow more time.")


def _part(result: EngineResult, first: int, end: int) -> EngineResult:
    """Some rows of a run. Copies: a view would keep the whole batch in memory as long as one answer waits."""
    return EngineResult(
        _rows(result.features, first, end), _rows(result.outputs, first, end), result.features_us, result.infer_us
    )


def _rows(arrays: Arrays, first: int, end: int) -> dict[str, Array]:
    return {name: array[first:end].copy() for name, array in arrays.items()}

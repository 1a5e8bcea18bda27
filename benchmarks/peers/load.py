"""The load generator: a process of its own that asks whom it is told to, as its standard input says, line by line.

``python -m peers.load`` reads Orders and answers each with one line: a Measured, or {"error": ...}. ``Generator`` is
the other end of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy

from peers import callers
from peers.callers import Caller, DirectCaller, HttpCaller, SessionCaller, StreamCaller, UnaryCaller
from peers.processes import Tree

IN_PROCESS, UNARY, STREAM, DIRECT, HTTP = "in process", "unary", "stream", "direct", "http"
FIRST_POLL_S = 0.005
MOST_FAILURES = 100
"""Of one caller, after which it gives up."""
WARM_S = 0.2
"""Before what is measured: caches that went cold while others were measured are warm again, and a server of ours, which
has the network give way for a tenth of a second after a local call, has forgotten that one."""


class LoadFailed(Exception):
    """The generator could not do as it was told; says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """Ask ``target`` over ``transport`` with the bytes in ``request``, expecting the numbers in ``answer`` (.npy).

    Attributes:
        shape: of the request's tensor. callers: at once, each with a connection. seconds: how long; where ``first`` is
            set, until the first right answer, at most so long.
    """

    transport: str
    target: str
    request: str
    answer: str
    shape: tuple[int, ...]
    callers: int
    seconds: float
    first: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one order.

    Attributes:
        requests: answered while it was measured. asked: in all, warming up included. failed: of these.
        per_second: answers, each caller's own rate added up. generator_cpu_s: what asking all of them cost.
    """

    requests: int
    asked: int
    failed: int
    per_second: float
    p50_us: float
    p90_us: float
    p99_us: float
    generator_cpu_s: float
    reason: str = ""


class Generator:
    """The process, started once and told one order after the other."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.load"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.tree = Tree(self._process, log)

    def obey(self, order: Order) -> Measured:
        """Raises LoadFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise LoadFailed(f"The load generator {self.tree.ended() or 'gave no answer'}.") from None
        if "error" in answer:
            raise LoadFailed(answer["error"])
        return Measured(**answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.tree.stop()
        self._log.close()


def main() -> None:
    for line in sys.stdin:
        order = Order(**json.loads(line))
        try:
            answer = asdict(first(order) if order.first else measure(order))
        except Exception as error:  # whatever a contender does is a line of the table
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(answer), flush=True)


def connect(order: Order) -> Caller:
    request = Path(order.request).read_bytes()
    if order.transport == IN_PROCESS:
        return SessionCaller(order.target, request, tuple(order.shape))
    kinds: dict[str, Callable[[str, bytes], Caller]] = {
        UNARY: UnaryCaller,
        STREAM: StreamCaller,
        DIRECT: DirectCaller,
        HTTP: HttpCaller,
    }
    return kinds[order.transport](order.target, request)


def first(order: Order) -> Measured:
    """Ask with new connections until the right answer comes. Raises the last error after ``seconds``."""
    wanted, began = numpy.load(order.answer), time.monotonic()
    tries = 0
    while True:
        tries += 1
        caller: Caller | None = None
        try:
            caller = connect(order)
            callers.check(caller, caller.ask(), wanted)
            took = time.monotonic() - began
            return Measured(1, tries, tries - 1, 1 / took, took * 1e6, took * 1e6, took * 1e6, 0.0)
        except Exception:
            if time.monotonic() - began > order.seconds:
                raise
            time.sleep(FIRST_POLL_S)
        finally:
            if caller is not None:
                caller.close()


def measure(order: Order) -> Measured:
    """All callers at once for a while; the first and the last answer of each are compared."""
    wanted = numpy.load(order.answer)
    connected = [connect(order) for _ in range(order.callers)]
    try:
        for caller in connected:
            callers.check(caller, caller.ask(), wanted)
        barrier = Barrier(len(connected))
        each = [_Asking(caller, order.seconds, barrier) for caller in connected]
        cpu = time.process_time()
        for one in each:
            one.start()
        for one in each:
            one.join()
        cpu = time.process_time() - cpu
        for one in each:
            if one.last is not None:
                callers.check(one.caller, one.last, wanted)
    finally:
        for caller in connected:
            caller.close()
    times = numpy.concatenate([numpy.asarray(one.times, numpy.int64) for one in each]) / 1000
    if not len(times):
        raise LoadFailed(next((one.reason for one in each if one.reason), "no answer in time"))
    p50, p90, p99 = (round(float(value), 1) for value in numpy.percentile(times, (50, 90, 99)))
    return Measured(
        requests=len(times),
        asked=sum(one.asked for one in each),
        failed=sum(one.failed for one in each),
        per_second=round(sum(one.per_second for one in each), 2),
        p50_us=p50,
        p90_us=p90,
        p99_us=p99,
        generator_cpu_s=round(cpu, 4),
        reason=next((one.reason for one in each if one.reason), ""),
    )


class _Asking(Thread):
    """One caller's loop."""

    def __init__(self, caller: Caller, seconds: float, barrier: Barrier) -> None:
        super().__init__(daemon=True)
        self.caller = caller
        self._seconds = seconds
        self._barrier = barrier
        self.times: list[int] = []
        self.asked = self.failed = 0
        self.per_second = 0.0
        self.reason = ""
        self.last: Any = None

    def run(self) -> None:
        self._barrier.wait()
        self._ask(time.perf_counter_ns() + int(WARM_S * 1e9))
        self.times.clear()
        began = time.perf_counter_ns()
        self._ask(began + int(self._seconds * 1e9))
        # Up to its own last answer: all requests that are counted, and all the time that they took.
        self.per_second = len(self.times) * 1e9 / (time.perf_counter_ns() - began)

    def _ask(self, until: int) -> None:
        ask, times, now = self.caller.ask, self.times, time.perf_counter_ns
        while (began := now()) < until and self.failed < MOST_FAILURES:
            self.asked += 1
            try:
                self.last = ask()
            except Exception as error:
                self.failed += 1
                self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
            times.append(now() - began)


if __name__ == "__main__":
    main()

"""Starts every contender, then measures them in turns: each round asks everybody once before anybody is asked again."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from peers.contenders import Contender, Row
from peers.environments import NoEnvironment
from peers.launches import BENCHMARKS, Launch, Scene, free_ports
from peers.load import DIRECT, HTTP, IN_PROCESS, STREAM, UNARY, Generator, LoadFailed, Measured, Order
from peers.models import INPUT, Exported
from peers.processes import NOTHING, Memory, Tree, surroundings

FIRST_ANSWER_S = 60.0
_TRY_S = 1.0
"""How long one order waits for a first answer, before it is looked whether the server still lives."""
CALLERS = (1, 16)
_TOLD = (NoEnvironment, LoadFailed, HybridgeError)
"""Errors whose text says all."""


@dataclass(slots=True)
class Started:
    """A contender that runs, or why it does not.

    Attributes:
        first_answer_s: from its start to the first right answer of every model. idle_cpu: CPU seconds a second while
            nobody asks. memory_at_first: once every model has answered. memory: after all rounds.
    """

    contender: Contender
    launch: Launch | None = None
    tree: Tree | None = None
    generator: Generator | None = None
    first_answer_s: float = 0.0
    idle_cpu: float = 0.0
    memory_at_first: Memory = NOTHING
    memory: Memory = NOTHING
    reason: str = ""
    broken: dict[str, str] = field(default_factory=dict)
    """Rows that fail, and why."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One row, asked for one model once; ``server_cpu_s`` of the contender's whole tree meanwhile."""

    row: str
    model: str
    callers: int
    round: int
    measured: Measured
    server_cpu_s: float


class Requests:
    """The bytes that callers send, made once, and the answers they must get, in files of ``folder``."""

    def __init__(self, folder: Path, models: Sequence[Exported]) -> None:
        self._folder = folder
        for one in models:
            rows = one.model.rows()
            raw = rows.astype("<f4").tobytes()
            message = messages.ModelInferRequest(model_name=one.model.name, id="1")
            message.inputs.add(name=INPUT, datatype="FP32", shape=rows.shape)
            message.raw_input_contents.append(raw)
            posted = json.dumps({"model": one.model.name, "data": base64.b64encode(raw).decode()}).encode()
            unary = message.SerializeToString()
            sent = {UNARY: unary, STREAM: unary, DIRECT: unary, HTTP: posted, IN_PROCESS: raw}
            for transport, content in sent.items():
                self._path(one.model.name, transport).write_bytes(content)
            numpy.save(folder / f"{one.model.name}.npy", one.answer)

    def order(
        self, row: Row, launch: Launch, one: Exported, callers: int, seconds: float, *, first: bool = False
    ) -> Order:
        target = launch.targets[one.model.name if row.transport == IN_PROCESS else row.way]
        path, answer = self._path(one.model.name, row.transport), self._folder / f"{one.model.name}.npy"
        shape = (1, *one.model.shape)
        return Order(row.transport, target, str(path), str(answer), shape, callers, seconds, first)

    def _path(self, model: str, transport: str) -> Path:
        return self._folder / f"{model}.{transport.replace(' ', '-')}"


class Ring:
    """All contenders, started; ``generator`` asks those that are servers."""

    def __init__(self, folder: Path, environments: Path, models: Sequence[Exported]) -> None:
        self._folder = folder
        self._environments = environments
        self._models = models
        self._requests = Requests(folder, models)
        self._generator = self._new_generator("load")
        self.started: list[Started] = []

    def start(self, contender: Contender, reason: str = "") -> Started:
        """Start it and wait for the first right answer of every model; whatever goes wrong is its ``reason``.

        Args:
            reason: why it need not be tried at all.
        """
        started = Started(contender, reason=reason)
        self.started.append(started)
        if reason:
            return started
        place = self._folder / contender.name
        place.mkdir()
        first, second, third = free_ports(3)
        try:
            scene = Scene(place, self._models, (first, second, third), self._environments)
            started.launch = contender.prepare(scene)
            began = time.monotonic()
            if contender.rows[0].transport == IN_PROCESS:
                started.generator = self._new_generator(contender.name)
                started.tree = started.generator.tree
            else:
                log = place / "server.log"
                started.tree = Tree.start(started.launch.command, started.launch.environment, log, place)
            self._wait_for_answers(started, began)
            started.first_answer_s = round(time.monotonic() - began, 3)
            started.memory_at_first = started.tree.memory()
            self._try_rows(started)
        except Exception as error:  # whatever goes wrong with a contender is a line of the table
            kind = "" if isinstance(error, _TOLD) else f"{type(error).__name__}: "
            started.reason = kind + " ".join(str(error).split())
        return started

    def measure_idle(self, seconds: float) -> None:
        """What each one costs while nobody asks: it would be in everybody's way."""
        running = [(one, one.tree) for one in self.started if one.tree is not None and not one.reason]
        before = [tree.cpu_seconds() for _, tree in running]
        time.sleep(seconds)
        for (one, tree), cpu in zip(running, before, strict=True):
            one.idle_cpu = round((tree.cpu_seconds() - cpu) / seconds, 4)

    def slots(self, rounds: int, seconds: float) -> Iterator[Slot]:
        """Everybody in turns. The one who begins changes from round to round, so that nobody always follows the same
        neighbour. A row that fails is broken from then on."""
        for number in range(rounds):
            for one in self._models:
                for callers in CALLERS:
                    rows = [(started, row) for started in self.started for row in started.contender.rows]
                    turn = number % len(rows)
                    for started, row in rows[turn:] + rows[:turn]:
                        if started.reason or row.name in started.broken:
                            continue
                        slot = self._slot(started, row, one, callers, number, seconds)
                        if slot is not None:
                            yield slot

    def measure_memory(self) -> None:
        for one in self.started:
            if one.tree is not None and not one.reason:
                one.memory = one.tree.memory()

    def close(self) -> None:
        self._generator.close()
        for one in self.started:
            if one.generator is not None:
                one.generator.close()
            elif one.tree is not None:
                one.tree.stop()

    def _slot(
        self, started: Started, row: Row, one: Exported, callers: int, number: int, seconds: float
    ) -> Slot | None:
        assert started.launch is not None
        assert started.tree is not None
        order = self._requests.order(row, started.launch, one, callers, seconds)
        before = started.tree.cpu_seconds()
        try:
            measured = (started.generator or self._generator).obey(order)
        except LoadFailed as error:
            started.broken[row.name] = f"{one.model.name}, {callers} callers: {error} {started.tree.ended()}".strip()
            return None
        cpu = started.tree.cpu_seconds() - before
        return Slot(row.name, one.model.name, callers, number, measured, round(cpu, 4))

    def _wait_for_answers(self, started: Started, began: float) -> None:
        """Over the way in that is open first. Raises LoadFailed."""
        assert started.launch is not None
        assert started.tree is not None
        row = started.contender.rows[-1] if len(started.contender.rows) == 1 else started.contender.rows[1]
        for one in self._models:
            order = self._requests.order(row, started.launch, one, 1, _TRY_S, first=True)
            while True:
                try:
                    (started.generator or self._generator).obey(order)
                    break
                except LoadFailed as error:
                    ended = started.tree.ended()
                    if ended:
                        raise LoadFailed(ended) from None
                    if time.monotonic() - began > FIRST_ANSWER_S:
                        words = started.tree.last_words()
                        raise LoadFailed(f"no answer in {FIRST_ANSWER_S:.0f} s: {error} Its log: {words}") from None

    def _try_rows(self, started: Started) -> None:
        """Whether each way in answers at all: a verb that a server lacks is a broken row, not a broken contender."""
        assert started.launch is not None
        for row in started.contender.rows:
            order = self._requests.order(row, started.launch, self._models[0], 1, _TRY_S, first=True)
            try:
                (started.generator or self._generator).obey(order)
            except LoadFailed as error:
                started.broken[row.name] = str(error)

    def _new_generator(self, name: str) -> Generator:
        environment = surroundings(PYTHONPATH=str(BENCHMARKS))
        return Generator(environment, self._folder / f"{name}.generator.log")


@contextmanager
def ring(folder: Path, environments: Path, models: Sequence[Exported]) -> Iterator[Ring]:
    """A ring whose processes are all ended on leaving."""
    made = Ring(folder, environments, models)
    try:
        yield made
    finally:
        made.close()

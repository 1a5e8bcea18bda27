"""What a program sees of a sequence: what is tried again and what never is, and what the doubles do."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge import trust as trusting
from hybridge_edge.client import AsyncClientSequence, ClientSequence
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.async_direct import AsyncDirect
from hybridge_edge.client.direct import Direct
from hybridge_edge.contract.errors import (
    DeadlineExceeded,
    HybridgeError,
    InvalidInput,
    Overloaded,
    Refused,
    SequenceLost,
    Unavailable,
)
from hybridge_edge.engine import load
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.sequences import Step
from hybridge_edge.testing import FakeAsyncClient, FakeClient, Stateful

X = {"x": numpy.ones((1, 2), numpy.float32)}


class Asks:
    """Stands for a client: answers, or fails as it is told, and remembers the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.fail: BaseException | None = None

    def __call__(self, *arguments: Any) -> Any:
        self.steps.append(arguments[-1])
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error


def test_the_first_begins_and_leaving_the_block_ends() -> None:
    asks = Asks()
    with ClientSequence(asks, "voice", "a") as sequence:
        sequence.infer(X)
        sequence.infer(X)
    assert asks.steps == [Step("a", True), Step("a"), Step("a", end=True)]
    with ClientSequence(asks, "voice"):
        pass
    assert len(asks.steps) == 3  # what never began needs no end


def test_the_last_one_ends_it_and_nothing_follows() -> None:
    asks = Asks()
    with ClientSequence(asks, "voice") as sequence:
        sequence.infer(X, last=True)
        with pytest.raises(SequenceLost, match="It has ended"):
            sequence.infer(X)
    assert asks.steps == [Step(sequence.id, True, True)]


@pytest.mark.parametrize(
    "error", [Unavailable("Away."), DeadlineExceeded("Late."), SequenceLost("Gone."), KeyboardInterrupt()]
)
def test_where_nobody_knows_whether_a_request_was_run_the_sequence_is_over(error: BaseException) -> None:
    asks = Asks()
    with ClientSequence(asks, "voice") as sequence:
        sequence.infer(X)
        asks.fail = error
        with pytest.raises(type(error)):
            sequence.infer(X)
        with pytest.raises(SequenceLost, match=r"is over.*Begin another one"):
            sequence.infer(X)
    assert len(asks.steps) == 2


@pytest.mark.parametrize("error", [InvalidInput("Wrong."), Overloaded("Full."), Refused("A guard.")])
def test_a_refusal_is_an_answer_and_the_sequence_goes_on(error: HybridgeError) -> None:
    asks = Asks()
    with ClientSequence(asks, "voice", 5) as sequence:
        sequence.infer(X)
        asks.fail = error
        with pytest.raises(type(error)):
            sequence.infer(X)
        sequence.infer(X)
    assert asks.steps == [Step(5, True), Step(5), Step(5), Step(5, end=True)]


def test_a_beginning_that_failed_may_be_made_again() -> None:
    asks = Asks()
    sequence = ClientSequence(asks, "voice", "a")
    for error in (Unavailable("Away."), DeadlineExceeded("Late."), Overloaded("Full.")):
        asks.fail = error
        with pytest.raises(type(error)):
            sequence.infer(X)
    sequence.infer(X)
    assert asks.steps == [Step("a", True)] * 4


def test_an_end_that_does_not_arrive_is_no_error() -> None:
    asks = Asks()
    with ClientSequence(asks, "voice") as sequence:
        sequence.infer(X)
        asks.fail = Unavailable("Away.")
    assert asks.fail is None


def test_a_task_that_is_cancelled_leaves_its_sequence_over() -> None:
    async def scenario() -> None:
        async def ask(*arguments: Any) -> Any:
            if not arguments[-1].start:
                await asyncio.sleep(60)

        sequence = AsyncClientSequence(ask, "voice")
        await sequence.infer(X)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sequence.infer(X), 0.05)
        with pytest.raises(SequenceLost, match="broken off"):
            await sequence.infer(X)

    asyncio.run(scenario())


@pytest.fixture
def counting(here: Any, kit: ModuleType, trust: Any) -> Any:
    built = kit.build_counter(here.folder / "counter")
    engine = load(trusting.open_package(built.folder, trust), 1)
    here.service.residents.switch(Resident(built.manifest, built.digest, engine))
    return here


@pytest.mark.parametrize("way", ["direct", "grpc"])
def test_a_real_client_never_asks_twice_in_the_middle(counting: Any, client_of: Any, kit: ModuleType, way: str) -> None:
    counting.stop()
    counting.start(direct=way == "direct")
    values = kit.steps_of()
    with client_of(counting.target) as client, client.sequence(kit.COUNTER) as sequence:
        for value in values[:2]:
            sequence.infer({"x": value.reshape(1, -1)})
        counting.service.asked.clear()
        counting.service.refuse = Unavailable("It stops.", "Later.")
        with pytest.raises(Unavailable):
            sequence.infer({"x": values[2:3]})
        assert len(counting.service.asked) == 1
        counting.service.refuse = None
        with pytest.raises(SequenceLost, match="is over"):
            sequence.infer({"x": values[2:3]})
        assert len(counting.service.asked) == 1


def test_a_real_client_tries_a_beginning_again(counting: Any, client_of: Any, kit: ModuleType) -> None:
    counting.service.refuse = Unavailable("It starts.", "Later.")
    values = kit.steps_of()

    def let_go() -> None:
        while len(counting.service.asked) < 2:
            threading.Event().wait(0.01)
        counting.service.refuse = None

    helper = threading.Thread(target=let_go)
    helper.start()
    with client_of(counting.target) as client, client.sequence(kit.COUNTER) as sequence:
        found = [sequence.infer({"x": value.reshape(1, -1)}).outputs["sum"] for value in values]
    helper.join(10)
    assert numpy.array_equal(numpy.vstack(found), kit.counted(values))


def adding() -> Any:
    total = numpy.zeros((1, 2), numpy.float32)

    def answer(inputs: Any) -> dict[str, Any]:
        nonlocal total
        total = total + inputs["x"]
        return {"sum": total}

    return answer


def test_the_doubles_keep_what_a_sequence_is_made_of() -> None:
    client = FakeClient({"counter": Stateful(adding), "watch": {"y": [1.0]}})
    with client.sequence("counter") as one, client.sequence("counter", sequence_id=4) as other:
        assert [one.infer(X).outputs["sum"][0, 0] for _ in range(3)] == [1, 2, 3]
        assert other.infer(X).outputs["sum"][0, 0] == 1
    assert client.infer("counter", X).outputs["sum"][0, 0] == 1
    steps = [asked.step for asked in client.requests if asked.step is not None and asked.step.id == 4]
    assert steps == [Step(4, True), Step(4, end=True)]
    with pytest.raises(InvalidInput, match="keeps nothing"):
        client.sequence("watch").infer(X)
    with client.sequence("counter") as lost:
        lost.infer(X)
        client.fail(SequenceLost("The server was started anew."))
        for _ in range(2):
            with pytest.raises(SequenceLost):
                lost.infer(X)


def test_the_asyncio_double_does_the_same() -> None:
    async def scenario() -> list[float]:
        async with FakeAsyncClient({"counter": Stateful(adding)}) as client, client.sequence("counter") as sequence:
            return [float((await sequence.infer(X)).outputs["sum"][0, 0]) for _ in range(3)]

    assert asyncio.run(scenario()) == [1, 2, 3]


def by_thread(path: Path, asked: Asked) -> Any:
    return Direct(path, 1, 1 << 20).infer(asked, time.monotonic() + 5, 5)


def by_task(path: Path, asked: Asked) -> Any:
    async def ask() -> Any:
        return await AsyncDirect(path, 1, 1 << 20).infer(asked, time.monotonic() + 5, 5)

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [by_thread, by_task])
def test_a_request_on_a_direct_connection_that_broke_goes_another_way_only_where_it_begins(
    ask: Any, short: Path, kit: ModuleType
) -> None:
    """A server that took the request and closed without a word: nobody knows whether it was run."""
    path = short / "direct.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()

        def take_and_close() -> None:
            for _ in range(3):
                accepted, _ = listening.accept()
                accepted.recv(65_536)
                accepted.close()

        peer = threading.Thread(target=take_and_close)
        peer.start()
        for step in (None, Step("a", True)):
            asked = Asked(kit.COUNTER, X, "", "", (), True, step)
            assert ask(path, asked) is None
        asked = Asked(kit.COUNTER, X, "", "", (), True, Step("a"))
        with pytest.raises(Unavailable):
            ask(path, asked)
        peer.join(10)

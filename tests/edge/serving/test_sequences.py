"""Sequences in the heart of the server: whose turn it is, what a failure leaves, how long a state is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
from sequence_service import Here, in_threads

from hybridge_edge.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    Refused,
    SequenceLost,
)
from hybridge_edge.contract.expectations import Guard
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.serving import description, sequences
from hybridge_edge.serving.call import NETWORK, Call
from hybridge_edge.serving.guards import AnswerRefused
from hybridge_edge.serving.sequences import MAX_WAITING, Step


@pytest.fixture
def here(tmp_path: Path, kit: ModuleType, trust: TrustDocument) -> Here:
    return Here(tmp_path, kit, trust)


def test_a_sequence_is_answered_from_what_came_before_in_it_and_in_no_other(here: Here, kit: ModuleType) -> None:
    names = [7, "7", "seven", 2**64 - 1]  # a number and a text of the same look are two
    values = {name: kit.steps_of(seed) for seed, name in enumerate(names)}
    found: dict[Any, list[numpy.ndarray]] = {name: [] for name in names}
    for at in range(5):
        for name in names:
            answer = here.ask(Step(name, at == 0, at == 4), values[name][at])
            found[name].append(answer.outputs[0][1])
            assert answer.outputs[1][1].tolist() == [at + 1]
    for name in names:
        assert numpy.array_equal(numpy.vstack(found[name]), kit.counted(values[name]))
    assert here.live() == 0
    assert here.ended() == {"ended": 4}
    assert here.sequences.counts().bytes == 0


def test_a_request_of_no_sequence_begins_and_is_forgotten(here: Here, kit: ModuleType) -> None:
    values = kit.steps_of()
    for value in values:
        assert numpy.array_equal(here.ask(None, value).outputs[0][1], kit.counted(value.reshape(1, -1)))
    assert here.sequences.counts().begun == 0


def test_callers_neither_see_nor_send_a_state(here: Here, kit: ModuleType) -> None:
    resident = here.service.residents.find(kit.COUNTER, "")
    metadata = description.metadata(resident.manifest, ["1.0.0"])
    assert [one.name for one in metadata.inputs] == ["x"]
    assert [one.name for one in metadata.outputs] == ["sum", "count"]
    value = kit.steps_of()[0]
    total = numpy.zeros((1, kit.WIDTH), numpy.float32)
    with pytest.raises(InvalidInput, match="no input 'total'"):
        here.ask(Step(1, True), value, inputs={"x": value.reshape(1, -1), "total": total})
    with pytest.raises(InvalidInput, match=r"'next'.* unknown"):
        here.ask(Step(1, True), value, outputs=("next",))
    configuration = description.configuration(resident)
    assert configuration.WhichOneof("scheduling_choice") == "sequence_batching"
    states = configuration.sequence_batching.state
    assert [(one.input_name, one.output_name, list(one.dims)) for one in states] == [
        ("before", "after", [1, 2]),
        ("total", "next", [1, 2]),
        ("seen", "seen_next", [1]),
    ]
    assert [len(one.initial_state) for one in states] == [1, 0, 1]  # what begins at 100 is not zeros
    assert states[0].initial_state[0].zero_data


def test_a_sequence_that_does_not_run_has_to_be_started(here: Here, kit: ModuleType) -> None:
    values = kit.steps_of()
    with pytest.raises(SequenceLost, match=r"Sequence 'a' of counter does not run here.*sequence_start"):
        here.ask(Step("a"), values[0])
    here.ask(Step("a", True, True), values[0])
    with pytest.raises(SequenceLost, match="it has ended"):
        here.ask(Step("a"), values[1])
    assert here.service.counters(kit.COUNTER).failures == 0  # their callers' fault, and no evidence against a version
    with pytest.raises(ModelNotFound):
        here.ask(Step("a", True), values[0], model="other")


def test_a_start_begins_a_running_sequence_anew(here: Here, kit: ModuleType) -> None:
    values = kit.steps_of()
    here.sums(values)
    assert numpy.array_equal(here.sums(values), kit.counted(values))
    assert (here.live(), here.sequences.counts().begun) == (1, 2)


def test_an_end_without_inputs_ends_it(here: Here, kit: ModuleType) -> None:
    here.sums(kit.steps_of())
    answer = here.ask(Step(1, end=True), kit.steps_of()[0], inputs={})
    assert answer.outputs == ()
    assert here.live() == 0
    with pytest.raises(SequenceLost):
        here.ask(Step(1, end=True), kit.steps_of()[0], inputs={})


def zeros(shape: tuple[int, ...]) -> numpy.ndarray:
    return numpy.zeros(shape, numpy.float32)


def failing(here: Here, kit: ModuleType) -> dict[str, tuple[type[Exception], Callable[[], Any]]]:
    """Ways for a request in the middle of a sequence to fail."""
    value = kit.steps_of()[1]

    def engine() -> None:
        here.engine.fail = RuntimeError("gone wrong")
        try:
            here.ask(Step(1), value)
        finally:
            here.engine.fail = None

    return {
        "the engine": (RuntimeError, engine),
        "its inputs": (
            InvalidInput,
            lambda: here.ask(Step(1), value, inputs={"x": numpy.zeros((1, 3), numpy.float32)}),
        ),
        "two rows": (InvalidInput, lambda: here.ask(Step(1), value, inputs={"x": numpy.zeros((2, 2), numpy.float32)})),
        "no inputs": (InvalidInput, lambda: here.ask(Step(1), value, inputs={})),
        "no number": (Refused, lambda: here.ask(Step(1), numpy.full(2, numpy.nan, numpy.float32))),
        "its end": (InvalidInput, lambda: here.ask(Step(1, end=True), value, outputs=("nothing",))),
        "a start": (InvalidInput, lambda: here.ask(Step(1, True), value, outputs=("nothing",))),
        "another version": (InvalidInput, lambda: here.ask(Step(1), value, version="0.9.0")),
    }


WAYS = ("the engine", "its inputs", "two rows", "no inputs", "no number", "its end", "a start", "another version")


@pytest.mark.parametrize("how", WAYS)
def test_what_fails_leaves_the_state_as_it_was(here: Here, kit: ModuleType, how: str) -> None:
    values = kit.steps_of()
    before = here.sums(values[:2])
    kind, fail = failing(here, kit)[how]
    with pytest.raises(kind):
        fail()
    after = here.sums(values[2:], start=False)
    assert numpy.array_equal(numpy.vstack([before, after]), kit.counted(values))


def test_an_answer_that_a_guard_holds_back_leaves_the_state_as_it_was(here: Here, kit: ModuleType) -> None:
    guard = Guard("sum", -1000.0, 1000.0, "refuse")
    here.activate("1.1.0", change=lambda manifest: replace(manifest, guards=(guard,)))
    values = kit.steps_of()
    before = here.sums(values[:3])
    with pytest.raises(AnswerRefused):
        here.ask(Step(1), numpy.full(2, 1e6, numpy.float32))
    assert numpy.array_equal(numpy.vstack([before, here.sums(values[3:], start=False)]), kit.counted(values))


def test_a_start_that_fails_leaves_nothing(here: Here, kit: ModuleType) -> None:
    here.engine.fail = RuntimeError("gone wrong")
    with pytest.raises(RuntimeError):
        here.ask(Step(1, True), kit.steps_of()[0])
    assert (here.live(), here.sequences.counts().bytes, len(here.sequences._known)) == (0, 0, 0)


def test_requests_of_one_sequence_run_in_order_one_at_a_time(here: Here, kit: ModuleType, wait_for: Any) -> None:
    values = kit.steps_of(1, 8)
    here.engine.hold = threading.Event()
    found: dict[int, numpy.ndarray] = {}

    def ask(at: int) -> None:
        found[at] = here.ask(Step(1, at == 0), values[at]).outputs[0][1]

    threads = []
    for at in range(8):
        threads.append(threading.Thread(target=ask, args=(at,)))
        threads[-1].start()
        (sequence,) = wait(lambda: list(here.sequences._known.values()))
        wait_for(lambda at=at, sequence=sequence: len(sequence.waiting) == at)
    here.engine.hold.set()
    for thread in threads:
        thread.join(10)
    assert numpy.array_equal(numpy.vstack([found[at] for at in range(8)]), kit.counted(values))
    assert here.engine.most == 1


def wait(look: Callable[[], Any]) -> Any:
    for _ in range(1000):
        if found := look():
            return found
        threading.Event().wait(0.01)
    raise AssertionError("it did not come")


def test_different_sequences_run_at_once(here: Here, kit: ModuleType) -> None:
    here.engine.hold = threading.Event()
    threads = in_threads(3, lambda number: here.ask(Step(number + 1, True), kit.steps_of()[0]))
    for _ in threads:
        assert here.engine.entered.acquire(timeout=10)
    here.engine.hold.set()
    for thread in threads:
        thread.join(10)
    assert here.engine.most == 3


def test_waiting_is_bounded_and_whoever_gives_up_leaves_no_gap(here: Here, kit: ModuleType, wait_for: Any) -> None:
    values = kit.steps_of(2, 3)
    here.engine.hold = threading.Event()
    first = in_threads(1, lambda _: here.ask(Step(1, True), values[0]))
    assert here.engine.entered.acquire(timeout=10)
    (sequence,) = here.sequences._known.values()
    with pytest.raises(DeadlineExceeded, match="turn in its sequence"):
        here.ask(Step(1), values[1], Call(0.05))
    gone, said = Call(20.0), []

    def ask_and_go(_: int) -> None:
        with pytest.raises(Cancelled):
            here.ask(Step(1), values[1], gone)
        said.append(True)

    leaver = in_threads(1, ask_and_go)
    wait_for(lambda: len(sequence.waiting) == 1)
    gone.cancel()
    leaver[0].join(10)
    assert said
    assert not sequence.waiting
    answers: list[Any] = []
    crowd = in_threads(MAX_WAITING, lambda _: answers.append(here.ask(Step(1), values[1])))
    wait_for(lambda: len(sequence.waiting) == MAX_WAITING)
    with pytest.raises(Overloaded, match="wait already"):
        here.ask(Step(1), values[1])
    here.engine.hold.set()
    for thread in (*first, *crowd):
        thread.join(10)
    assert sorted(int(one.outputs[1][1][0]) for one in answers) == list(range(2, MAX_WAITING + 2))


def test_waiting_is_bounded_over_all_sequences_and_the_network_has_a_share(
    here: Here, kit: ModuleType, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "MAX_WAITING_TOGETHER", 4)
    value = kit.steps_of()[0]
    here.engine.hold = threading.Event()
    threads = in_threads(2, lambda number: here.ask(Step(number + 1, True), value))
    threads += in_threads(1, lambda _: here.ask(Step(1, True), value, Call(20.0, NETWORK)))
    for _ in threads:
        assert here.engine.entered.acquire(timeout=10)
    threads += in_threads(3, lambda _: here.ask(Step(1), value, Call(20.0, NETWORK)))
    wait_for(lambda: here.sequences._waiting[False] == 3)
    with pytest.raises(Overloaded, match="requests of sequences wait already"):
        here.ask(Step(1), value, Call(20.0, NETWORK))
    threads += in_threads(1, lambda _: here.ask(Step(2), value))
    wait_for(lambda: here.sequences._waiting[True] == 1)
    with pytest.raises(Overloaded, match="requests of sequences wait already"):
        here.ask(Step(1), value)
    here.engine.hold.set()
    for thread in threads:
        thread.join(10)
    assert here.sequences._waiting == {True: 0, False: 0}
    assert here.live() == 3


def test_requests_behind_an_end_hear_that_it_is_over(here: Here, kit: ModuleType, wait_for: Any) -> None:
    values = kit.steps_of()
    here.sums(values[:1])
    here.engine.hold = threading.Event()
    ending = in_threads(1, lambda _: here.ask(Step(1, end=True), values[1]))
    assert here.engine.entered.acquire(timeout=10)
    (sequence,) = here.sequences._known.values()
    heard: list[str] = []

    def late(_: int) -> None:
        with pytest.raises(SequenceLost) as lost:
            here.ask(Step(1), values[2])
        heard.append(lost.value.code)

    behind = in_threads(1, late)
    wait_for(lambda: len(sequence.waiting) == 1)
    here.engine.hold.set()
    for thread in (*ending, *behind):
        thread.join(10)
    assert heard == ["ABORTED"]
    assert not here.sequences._known

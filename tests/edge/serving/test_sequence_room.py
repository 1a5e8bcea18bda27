"""How long a sequence is kept, who gives way to whom, and what becomes of it when its model is swapped."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
from sequence_service import Here, in_threads

from hybridge_edge import trust as trusting
from hybridge_edge.contract.errors import (
    InvalidInput,
    Overloaded,
    SequenceLost,
)
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import load
from hybridge_edge.observe.exposition import to_text
from hybridge_edge.observe.families import families
from hybridge_edge.observe.readings import Process, Readings
from hybridge_edge.serving import sequences
from hybridge_edge.serving.call import NETWORK, Call
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.sequences import IDLE_S, Step


@pytest.fixture
def here(tmp_path: Path, kit: ModuleType, trust: TrustDocument) -> Here:
    return Here(tmp_path, kit, trust)


def test_an_idle_sequence_expires_and_its_caller_hears_why(here: Here, kit: ModuleType) -> None:
    values = kit.steps_of()
    here.sums(values[:1], "old")
    here.now += here.sequences.seconds - 1
    here.ask(Step("old"), values[1])  # each answer begins its time anew
    here.sums(values[:1], "young")
    here.now += here.sequences.seconds - 1
    here.ask(Step("young"), values[1])
    here.now += 2
    assert here.live() == 1
    with pytest.raises(SequenceLost, match="idle for more than 60 s and is forgotten"):
        here.ask(Step("old"), values[2])
    assert here.ended() == {"expired": 1}
    assert numpy.array_equal(here.sums(values, "old"), kit.counted(values))  # and may begin again


def test_a_sequence_that_is_asked_does_not_expire_meanwhile(here: Here, kit: ModuleType) -> None:
    here.engine.hold = threading.Event()
    threads = in_threads(1, lambda _: here.ask(Step(1, True), kit.steps_of()[0]))
    assert here.engine.entered.acquire(timeout=10)
    here.now += 10 * here.sequences.seconds
    here.sequences.counts()
    here.engine.hold.set()
    threads[0].join(10)
    assert here.live() == 1


def test_room_is_made_by_whoever_was_idle_longest_and_never_by_one_that_runs(here: Here, kit: ModuleType) -> None:
    here.sequences.count = 3
    values = kit.steps_of()
    for name in (1, 2, 3):
        here.sums(values[:1], name)
    with pytest.raises(Overloaded, match="no room for another sequence"):
        here.ask(Step(4, True), values[0])
    here.now += IDLE_S
    here.ask(Step(1), values[1])  # 2 is the one that was idle longest now
    here.sums(values[:1], 4)
    assert here.live() == 3
    with pytest.raises(SequenceLost, match="had to make room"):
        here.ask(Step(2), values[1])
    assert here.ask(Step(3), values[1]).outputs[1][1].tolist() == [2]
    counts = here.sequences.counts()
    assert (counts.refused, dict(counts.ended)["evicted"], counts.begun) == (1, 1, 4)


def test_bytes_are_bounded_too(here: Here, kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "_MEGABYTE", 24)  # what one sequence of the counter takes
    here.sequences.megabytes = 2
    for name in (1, 2):
        here.sums(kit.steps_of(), name)
    assert here.sequences.counts().bytes == 48
    with pytest.raises(Overloaded, match="no room"):
        here.ask(Step(3, True), kit.steps_of()[0])
    monkeypatch.setattr(sequences, "_MEGABYTE", 11)
    with pytest.raises(Overloaded, match=r"takes 24 bytes.*sequenceMegabytes"):
        here.ask(Step(3, True), kit.steps_of()[0])
    assert here.sequences.counts().refused == 2


def test_the_network_has_names_and_room_of_its_own(here: Here, kit: ModuleType) -> None:
    here.sequences.count = 4
    values = kit.steps_of()

    def network() -> Call:
        return Call(10.0, NETWORK)

    here.sums(values[:2], 1)
    with pytest.raises(SequenceLost):
        here.ask(Step(1), values[0], network())  # the device's own is nobody else's
    for name in (1, 2, 3):
        here.ask(Step(name, True), values[0], network())
    here.now += IDLE_S
    here.ask(Step(4, True), values[0], network())  # of its own share of 3, the oldest goes
    assert here.ask(Step(1), values[2]).outputs[1][1].tolist() == [3]
    with pytest.raises(SequenceLost, match="make room"):
        here.ask(Step(1), values[1], network())
    here.sums(values[:1], 2)  # the device's own has the whole of it: here the network's oldest goes
    assert here.live() == 4


def test_the_reasons_remembered_are_bounded(here: Here, kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MAX_REMEMBERED", 5)
    for name in range(1, 20):
        here.sums(kit.steps_of()[:1], name)
    here.now += 1000
    assert here.live() == 0
    assert len(here.sequences._why) == 5


def test_a_swap_leaves_running_sequences_where_they_began(here: Here, kit: ModuleType) -> None:
    values = kit.steps_of()
    begun = here.sums(values[:2])
    here.activate("1.1.0")
    assert here.ask(Step(2, True), values[0]).version == "1.1.0"
    answer = here.ask(Step(1), values[2])
    assert answer.version == "1.0.0"
    assert numpy.array_equal(numpy.vstack([begun, answer.outputs[0][1]]), kit.counted(values[:3]))
    with pytest.raises(InvalidInput, match=r"runs on version 1\.0\.0"):
        here.ask(Step(1), values[3], version="1.1.0")
    assert here.ask(Step(3, True), values[0], version="1.0.0").version == "1.0.0"
    here.activate("1.2.0")  # 1.0.0 is not resident any more
    with pytest.raises(SequenceLost, match=r"ran on a version that is no longer loaded.*sequence_start"):
        here.ask(Step(1), values[3])
    assert here.ask(Step(2), values[1]).version == "1.1.0"
    assert here.ended() == {"version-gone": 1}
    assert here.ask(Step(1, True), values[0]).version == "1.2.0"


def test_the_same_package_on_another_provider_goes_on(here: Here, kit: ModuleType) -> None:
    values = kit.steps_of()
    begun = here.sums(values[:2])
    old = here.service.residents.find(kit.COUNTER, "")
    package = trusting.open_package(here.folder / "1.0.0", here.trust)
    assert here.service.residents.replace(old, Resident(package.manifest, package.digest, load(package, 1)))
    after = here.sums(values[2:], start=False)
    assert numpy.array_equal(numpy.vstack([begun, after]), kit.counted(values))


def test_a_model_without_states_has_no_sequences(here: Here, packages: Callable[..., Any], kit: ModuleType) -> None:
    built = packages()
    engine = load(trusting.open_package(built.folder, here.trust), 1)
    here.service.residents.switch(Resident(built.manifest, built.digest, engine))
    for step in (Step(1, True), Step(1), Step("", True)):
        with pytest.raises(InvalidInput, match="watch keeps nothing between requests"):
            here.ask(step, kit.steps_of()[0], model="watch", inputs={"window": kit.window()})
    with pytest.raises(InvalidInput, match="Send sequence_id"):
        here.ask(Step("", True), kit.steps_of()[0])


def test_metrics_say_how_many_live_and_why_others_do_not(here: Here, kit: ModuleType) -> None:
    for name in (1, 2):
        here.sums(kit.steps_of()[:1], name)
    here.now += here.sequences.seconds + 1
    here.sums(kit.steps_of()[:1], 3)
    text = to_text(families(Readings("1", 1.0, Process(), sequences=here.sequences.counts()))).decode()
    for line in (
        "hybridge_live_sequences 1",
        "hybridge_sequence_state_bytes 24",
        "hybridge_sequences_begun_total 3",
        'hybridge_sequences_ended_total{reason="expired"} 2',
        'hybridge_sequences_ended_total{reason="evicted"} 0',
        "hybridge_sequences_refused_total 0",
    ):
        assert line in text.splitlines()


def test_the_supervisor_that_reads_the_limits_imports_no_numpy() -> None:
    program = "import sys, hybridge_edge.supervisor; print({'numpy', 'grpc', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

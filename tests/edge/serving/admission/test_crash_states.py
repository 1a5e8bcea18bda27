"""Power cuts at every moment of every change to the store, in every state that a file system may keep of it (F2).

All durable work goes through ``durable.Disk``. A recording one writes down what was asked; ``states`` gives every tree
that may be found after a power cut, by these rules, which are harsher than any journaling file system's:

* a file's data is there for sure after its fsync; before, none of it, half of it or all of it;
* a name's change (made, renamed, removed) is there for sure after an fsync of its folder; before, any subset of them;
  a rename is two changes, and only a removal of the old name without the new one cannot be seen.

On each tree a server starts again. It must serve exactly the old or exactly the new package, its bytes verified; the
new one alone once the hand-over was answered; and leave nothing behind.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
from crashing_disk import Model, Recorder, Unsynced, essence

from hybridge_edge import durable
from hybridge_edge.admission.activation import Activation
from hybridge_edge.admission.passed import Measured
from hybridge_edge.admission.trial import Verdict
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import EngineResult
from hybridge_edge.package import Package
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store


class Answers:
    """A package in memory without a runtime: every byte verified, and the golden outputs given back."""

    provider = "CPUExecutionProvider"

    def __init__(self, package: Package, scores: numpy.ndarray) -> None:
        package.verify_files()
        self.content = package.read("features.onnx") + package.read("model.onnx")
        self._scores = scores

    def run(self, inputs: Any, stop: Any = None) -> EngineResult:
        rows = len(inputs["window"])
        return EngineResult({}, {"scores": self._scores[:rows]}, 0, 0)

    def close(self) -> None:
        pass


class Machine:
    """A store with an activation over it, whose engines are light."""

    def __init__(self, folder: Path, trust: TrustDocument, scores: dict[str, numpy.ndarray]) -> None:
        self.store = Store(folder)
        self.service = Service(Gate(1), lambda model, digest: None)
        self.activation = Activation(
            self.store,
            self.service,
            lambda: trust,
            lambda package, without: Answers(package, scores[package.digest]),
            lambda: None,
            trial=lambda package, stop: Verdict(Measured(memory_kib=1)),
        )
        self.activation.restore()

    @property
    def serves(self) -> str:
        resident = self.service.residents.active("watch")
        return resident.digest if resident is not None else ""

    def close(self) -> None:
        self.activation.close()


@dataclass
class Scenario:
    """What happened before, what happens now, and what may be served after a cut in it, and after it."""

    before: Callable[[Machine, list[Any]], None]
    now: Callable[[Machine, list[Any]], None]
    during: Callable[[list[Any]], set[str]]
    after: Callable[[list[Any]], set[str]]


def hand_over(machine: Machine, built: Any, epoch: int, mode: Mode = Mode.ACTIVATE) -> None:
    answer = machine.activation.hand_over(built.handover(epoch, mode))
    assert answer.state in (PackageState.ACTIVE, PackageState.RETIRED), answer


def versions(count: int) -> Callable[[Machine, list[Any]], None]:
    def run(machine: Machine, built: list[Any]) -> None:
        for number in range(count):
            hand_over(machine, built[number], number + 1)

    return run


def only(*numbers: int) -> Callable[[list[Any]], set[str]]:
    return lambda built: {built[number].digest if number >= 0 else "" for number in numbers}


def damaged(machine: Machine, built: list[Any]) -> None:
    versions(2)(machine, built)
    path = machine.store.folder / "packages" / built[1].digest.removeprefix("sha256:") / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    machine.service.residents.unload("watch")


SCENARIOS = {
    "install": Scenario(
        lambda machine, built: None, lambda machine, built: hand_over(machine, built[0], 1), only(-1, 0), only(0)
    ),
    "upgrade": Scenario(versions(1), lambda machine, built: hand_over(machine, built[1], 2), only(0, 1), only(1)),
    "upgrade, and the oldest goes": Scenario(
        versions(3), lambda machine, built: hand_over(machine, built[3], 4), only(2, 3), only(3)
    ),
    "put back by a hand-over": Scenario(
        versions(2), lambda machine, built: hand_over(machine, built[0], 3), only(0, 1), only(0)
    ),
    "rollback": Scenario(
        versions(2), lambda machine, built: machine.activation.rollback("watch", "warm"), only(0, 1), only(0)
    ),
    "quarantine": Scenario(
        versions(2),
        lambda machine, built: machine.activation.quarantine("watch", built[1].digest, "it hung"),
        only(0, 1),
        only(0),
    ),
    "quarantine, with the successor on disk only": Scenario(
        lambda machine, built: (versions(2)(machine, built), machine.service.residents.let_go("watch"))[0],
        lambda machine, built: machine.activation.quarantine("watch", built[1].digest, "it hung"),
        only(0, 1),
        only(0),
    ),
    "retire": Scenario(
        versions(2), lambda machine, built: hand_over(machine, built[1], 3, Mode.RETIRE), only(-1, 1), only(-1)
    ),
    "a damaged copy is installed again": Scenario(
        damaged, lambda machine, built: hand_over(machine, built[1], 2), only(0, 1), only(1)
    ),
    "what a crash left is removed": Scenario(
        lambda machine, built: (versions(2)(machine, built), litter(machine.store.folder))[0],
        lambda machine, built: Machine(machine.store.folder, machine.activation._steps.trust(), {
            one.digest: golden(one) for one in built
        }).close(),
        only(1),
        only(1),
    ),
}  # fmt: skip


def litter(store: Path) -> None:
    incoming = store / "packages" / ".incoming-0123456789abcdef"
    (incoming / "package" / "golden").mkdir(parents=True)
    (incoming / "package" / "model.onnx").write_bytes(b"half")
    (store / ".state.json.0123abcd").write_bytes(b"half")


def golden(built: Any) -> numpy.ndarray:
    return numpy.load(built.folder / "golden" / "scores.npy")


@pytest.fixture
def built(packages: Callable) -> list[Any]:
    return [packages(f"1.{number}.0", 1.0 + number) for number in range(4)]


@pytest.fixture
def memory(short: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of trees are written."""
    shared = Path("/dev/shm")
    folder = shared / short.name if shared.is_dir() else short / "states"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def violations(
    memory: Path, trust: TrustDocument, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, int, list[str]]]:
    """Runs a scenario, and a start on every state that a cut in it may leave: states, starts, what was wrong."""
    scores = {one.digest: golden(one) for one in built}

    def run(scenario: Scenario, *, forgets: str = "") -> tuple[int, int, list[str]]:
        store = memory / "store"
        monkeypatch.setattr(durable, "disk", Unsynced())
        machine = Machine(store, trust, scores)
        scenario.before(machine, built)
        model = Model(store)
        recorder = Recorder(store, forgets)
        monkeypatch.setattr(durable, "disk", recorder)
        scenario.now(machine, built)
        machine.close()
        monkeypatch.setattr(durable, "disk", Unsynced())
        # Marks of running trials are no durable work, and none is left by a process that ends: see trials.
        states, seen, wrong = 0, {}, []
        for number in range(len(recorder.events) + 1):
            if number:
                model.apply(recorder.events[number - 1])
            over = number == len(recorder.events)
            allowed = (scenario.after if over else scenario.during)(built)
            for tree in model.trees(exhaustive=not forgets):
                states += 1
                key = (essence(tree), over)
                if key in seen:
                    continue
                seen[key] = tree
                found = started(tree, allowed)
                wrong += [f"after {number} of {len(recorder.events)} requests: {one}" for one in found]
        return states, len(seen), wrong

    def started(tree: dict[str, bytes | None], allowed: set[str]) -> list[str]:
        folder = memory / "restarted"
        folder.mkdir(mode=0o700)
        for path, content in sorted(tree.items()):
            if content is None:
                (folder / path).mkdir(mode=0o700)
            else:
                (folder / path).write_bytes(content)
        machine = Machine(folder, trust, scores)
        wrong = []
        if machine.serves not in allowed:
            wrong.append(f"serves {machine.serves[:15] or 'nothing'}")
        records = machine.store.records()
        kept = {one.removeprefix("sha256:") for record in records.values() for one in record.kept_digests()}
        kept |= {one.digest.removeprefix("sha256:") for record in records.values() for one in record.fallbacks()}
        left = {path.name for path in (folder / "packages").iterdir()}
        if (records and not left <= kept) or len(left - kept) > 1:
            wrong.append(f"leaves packages {sorted(left - kept)}")
        others = {path.name for path in folder.iterdir()} - {
            "packages",
            "trials",
            "running",
            "state.json",
            "passed.json",
        }
        if others:
            wrong.append(f"leaves {sorted(others)}")
        machine.close()
        shutil.rmtree(folder)
        return wrong

    return run


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_power_cut_leaves_anything_but_old_or_new(
    violations: Callable[..., tuple[int, int, list[str]]], name: str
) -> None:
    states, starts, wrong = violations(SCENARIOS[name])
    print(f"\n{name}: {states} states, {starts} starts, {len(wrong)} violations")
    assert wrong == []
    assert starts > 3


@pytest.mark.parametrize("forgets", ["sync_folder", "sync"])
def test_a_store_that_forgets_to_sync_is_found_out(
    violations: Callable[..., tuple[int, int, list[str]]], forgets: str
) -> None:
    """The control: without either kind of fsync, states are left that must not be."""
    _, _, wrong = violations(SCENARIOS["upgrade"], forgets=forgets)
    assert any("serves" in one for one in wrong)

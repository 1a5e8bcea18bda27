"""Servers run as the processes they are, and in this process a device: a store with what runs on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from hybridge_edge import lines
from hybridge_edge.admission.activation import Activation
from hybridge_edge.admission.factory import Factory
from hybridge_edge.admission.passed import Measured
from hybridge_edge.admission.steps import Trial
from hybridge_edge.admission.trial import Verdict
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import Engine, load
from hybridge_edge.package import Package
from hybridge_edge.runtime import Endpoint
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.service import Answer, Inference, Service
from hybridge_edge.serving.standing import standing
from hybridge_edge.serving.watchdog import Watchdog
from hybridge_edge.store import Store

READY_WITHIN_S = 30.0


def passes(package: Package, stop: Callable[[], bool]) -> Verdict:
    """Of packages whose trial a test is not about: a child process for each of them would cost minutes.

    Real trials: tests/edge/serving/admission, and wherever a server is started.
    """
    return Verdict(Measured(memory_kib=1024))


class Device:
    """A store with what runs on it; ``restart`` begins again from the disk."""

    def __init__(self, folder: Path, trust: TrustDocument, kit: ModuleType) -> None:
        self.folder, self.trust, self.kit = folder, trust, kit
        self.changes = 0
        self.loads = 0
        self.live_share = 0.0
        self.shadow_share = 1.0
        self.watchdog: Watchdog | None = None
        self.memory_megabytes = 0
        self.factory = ""
        self.trial: Trial = passes
        self.clock = time.time
        self.start()

    def start(self) -> None:
        self.store = Store(self.folder)
        self.service = Service(
            Gate(2),
            lambda model, digest: self.activation.proven(model, digest),
            self.live_share,
            self.watchdog,
            shadow_share=self.shadow_share,
            broken=lambda one, reason: self.activation.fall_back(one.manifest.name, one.digest, reason),
        )
        self.activation = Activation(
            self.store,
            self.service,
            lambda: self.trust,
            self.load,
            self.count,
            trial=self.trial,
            factory=Factory(self.factory),
            memory_megabytes=self.memory_megabytes,
            clock=lambda: self.clock(),
        )
        self.activation.restore()
        self.service.live.start()

    def load(self, package: Package, without: str = "") -> Engine:
        self.loads += 1
        return load(package, 1)

    def count(self) -> None:
        self.changes += 1

    def stop(self) -> None:
        self.service.live.close()
        self.service.shadowing.close()
        self.activation.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def ask(self, values: numpy.ndarray, version: str = "") -> Answer:
        return self.service.infer(Inference(self.kit.MODEL, version, "", {"window": values}), Call(5.0))

    def serves(self, version: str = "") -> tuple[str, float]:
        """The version that answers, and the factor its numbers show."""
        answer = self.ask(self.kit.window(), version)
        (_, found), *_ = answer.outputs
        return answer.version, round(float(found.sum() / self.kit.window().mean(axis=1).sum()), 3)

    def reports(self) -> dict[str, ModelReport]:
        return {report.version: report for report in standing(self.store, self.service)}

    def states(self) -> dict[str, PackageState]:
        return {version: report.state for version, report in self.reports().items()}


@pytest.fixture
def device(tmp_path: Path, trust: TrustDocument, kit: ModuleType) -> Iterator[Device]:
    one = Device(tmp_path / "store", trust, kit)
    yield one
    one.stop()


@dataclass
class Server:
    """``hybridge-edge serve`` as a process, in a short runtime folder of its own."""

    store: Path
    runtime: Path
    environment: dict[str, str]
    arguments: list[str]
    process: subprocess.Popen[str] | None = None
    said: str = ""
    within: tuple[str, ...] = ()
    """A command that runs the server as its arguments say."""

    def start(self, *, wait: bool = True, **environment: str) -> Server:
        (self.runtime / "endpoint.json").unlink(missing_ok=True)
        serve = (sys.executable, "-m", "hybridge_edge.cli", "serve")
        command = [*self.within, *serve, "--store", str(self.store), *self.arguments]
        self.process = subprocess.Popen(
            command, env={**self.environment, **environment}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        if wait:
            self.wait()
        return self

    def wait(self, not_pid: int = 0) -> Endpoint:
        """Until endpoint.json names a worker that answers (and is not ``not_pid``)."""
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"serve ended with {self.process.returncode}: {self.errors()}")
            if (self.runtime / "endpoint.json").exists():
                endpoint = Endpoint.read(self.runtime)
                if endpoint.pid != not_pid and _alive(endpoint.pid):
                    return endpoint
            time.sleep(0.02)
        pytest.fail("serve did not become ready")

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.read(self.runtime)

    def say(self, **request: object) -> dict:
        return json.loads(lines.ask(self.runtime / "management.sock", json.dumps(request).encode() + b"\n", 60))

    def hand_over(self, handover: Handover) -> dict:
        return json.loads(lines.ask(self.runtime / "management.sock", handover.to_line(), 60))

    def errors(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def kill_tree(self) -> None:
        """kill -9 of the supervisor and its worker, as a power cut would."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        _, self.said = self.process.communicate(timeout=30)
        return self.process.returncode


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _server(folder: Path, trust: TrustDocument) -> Server:
    trust_file = folder / "trust.json"
    trust_file.write_bytes(trust.to_bytes())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDGE_", "AWS_"))},
        "HYBRIDGE_RUNTIME_DIR": str(folder / "run"),
        "HYBRIDGE_TRUST": str(trust_file),
    }
    return Server(folder / "store", folder / "run", environment, ["--tcp", "127.0.0.1:0"])


@pytest.fixture
def server(short: Path, trust: TrustDocument) -> Iterator[Server]:
    """A server that is not started yet; whatever is left of it is killed at the end."""
    one = _server(short, trust)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.kill_tree()


@pytest.fixture(scope="session")
def echoes(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that captures everything, with a model of every datatype that answers what it is asked, and
    the model watch in versions 1.0.0 (factor 1) and 1.1.0 (factor 2, active). Tests leave it as they found it."""
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    one = _server(folder, kit.trust_of(kit.signer()))
    one.arguments += ["--capture-share", "1", "--spool", str(folder / "spool")]
    packages = tmp_path_factory.mktemp("echoes")
    try:
        for datatype in NUMPY_TYPES:
            kit.activate(one.store, kit.build_echo(packages / datatype, datatype))
        one.start()
        for epoch, version in enumerate(("1.0.0", "1.1.0"), start=1):
            built = kit.build(packages / version, version, float(epoch))
            assert one.hand_over(built.handover(epoch))["state"] == "ACTIVE"
        yield one
        assert one.stop() == 0, one.said
    finally:
        if one.process is not None and one.process.poll() is None:
            one.kill_tree()
        shutil.rmtree(folder)

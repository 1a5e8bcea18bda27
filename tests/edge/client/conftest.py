"""A server in this process that can be stopped and started again, with a model that waits to be let go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Semaphore
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge import runtime
from hybridge_edge import trust as trusting
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import EngineResult, load
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer
from hybridge_edge.serving.service import Answer, Inference, Service


class Held:
    """A real engine that holds each run until it may go."""

    provider = "CPUExecutionProvider"

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.entered, self.go = Semaphore(0), Event()

    def run(self, inputs: Any, stop: Any = None) -> EngineResult:
        self.entered.release()
        assert self.go.wait(60)
        return self.inner.run(inputs)

    def close(self) -> None:
        self.inner.close()


class Counted(Service):
    """The service, counting what it is asked."""

    def __init__(self) -> None:
        super().__init__(Gate(64), lambda model, digest: None)
        self.asked: list[Inference] = []
        self.refuse: Exception | None = None

    def infer(self, request: Inference, call: Call) -> Answer:
        self.asked.append(request)
        if self.refuse is not None:
            raise self.refuse
        return super().infer(request, call)


class Here:
    """The server, its sockets, and its models: ``watch`` (1.0.0, resident too; 1.1.0 active) and ``held``."""

    def __init__(self, folder: Path, packages: Callable[..., Any], trust: TrustDocument) -> None:
        self.folder = folder
        self.service = Counted()
        for version, factor in (("1.0.0", 1.0), ("1.1.0", 2.0)):
            self._load(packages(version=version, factor=factor), trust)
        self.held = self._load(packages(name="held"), trust, Held)
        self.target = f"unix:{folder / 'inference.sock'}"
        self.server: InferenceServer | None = None

    def _load(self, built: Any, trust: TrustDocument, wrap: Callable[[Any], Any] = lambda engine: engine) -> Any:
        engine = wrap(load(trusting.open_package(built.folder, trust), 1))
        self.service.residents.switch(Resident(built.manifest, built.digest, engine))
        return engine

    def start(self, name: str = "inference.sock") -> None:
        socket = self.folder / name
        self.server = InferenceServer(self.service, socket, None, "0.1.0", lambda: True)
        self.server.start()
        runtime.Endpoint(f"unix:{socket}", "", str(self.folder / "management.sock"), "", 1).write(self.folder)

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop(0.2)
            self.server = None


@pytest.fixture
def here(
    short: Path, packages: Callable[..., Any], trust: TrustDocument, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Here]:
    folder = short / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(folder))
    monkeypatch.delenv("HYBRIDGE_ENDPOINT", raising=False)
    one = Here(folder, packages, trust)
    one.start()
    yield one
    one.held.go.set()
    one.stop()


@pytest.fixture
def right(kit: ModuleType) -> Callable[..., None]:
    """Whether an answer is that of the version it names."""

    def check(answer: Any, values: Any, factor: float = 2.0) -> None:
        assert answer.outputs["scores"] == pytest.approx(kit.scores(values, factor), rel=1e-4, abs=1e-5)

    return check

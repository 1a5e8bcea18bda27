"""A server in this process that can be stopped and started again, with a model that waits to be let go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from held import Held
from tasks import TasksClient

from hybridge_edge import runtime
from hybridge_edge import trust as trusting
from hybridge_edge.client import Client
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.direct.server import DirectServer
from hybridge_edge.engine import load
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer
from hybridge_edge.serving.service import Answer, Inference, Service

WIDE = 100_000


class Counted(Service):
    """The service, remembering what it was asked last."""

    def __init__(self) -> None:
        super().__init__(Gate(64), lambda model, digest: None)
        self.asked: deque[Inference] = deque(maxlen=64)
        self.refuse: Exception | None = None

    def infer(self, request: Inference, call: Call) -> Answer:
        self.asked.append(request)
        if self.refuse is not None:
            raise self.refuse
        return super().infer(request, call)


class Here:
    """The server, its sockets, and its models: ``watch`` (1.0.0, resident too; 1.1.0 active), ``held``, and one that
    answers WIDE numbers with themselves."""

    def __init__(self, folder: Path, packages: Callable[..., Any], trust: TrustDocument, wide: Any) -> None:
        self.folder = folder
        self.service = Counted()
        self._load(wide(folder), trust)
        for version, factor in (("1.0.0", 1.0), ("1.1.0", 2.0)):
            self._load(packages(version=version, factor=factor), trust)
        self.held = self._load(packages(name="held"), trust, Held)
        self.target = f"unix:{folder / 'inference.sock'}"
        self.server: InferenceServer | None = None
        self.direct: DirectServer | None = None

    def _load(self, built: Any, trust: TrustDocument, wrap: Callable[[Any], Any] = lambda engine: engine) -> Any:
        engine = wrap(load(trusting.open_package(built.folder, trust), 1))
        self.service.residents.switch(Resident(built.manifest, built.digest, engine))
        return engine

    def start(self, name: str = "inference.sock", *, direct: bool = False) -> None:
        socket = self.folder / name
        self.server = InferenceServer(self.service, socket, None, "0.1.0", lambda: True)
        self.server.start()
        if direct:
            path = self.folder / runtime.DIRECT_SOCKET
            self.direct = DirectServer(path, self.server.answering, self.server.max_message_bytes)
            self.direct.start()
        runtime.Endpoint(f"unix:{socket}", "", str(self.folder / "management.sock"), "", 1).write(self.folder)

    def stop(self) -> None:
        if self.direct is not None:
            self.direct.stop()
            self.direct = None
        if self.server is not None:
            self.server.stop(0.2)
            self.server = None


@pytest.fixture
def here(
    short: Path, packages: Callable[..., Any], trust: TrustDocument, monkeypatch: pytest.MonkeyPatch, kit: ModuleType
) -> Iterator[Here]:
    folder = short / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(folder))
    monkeypatch.delenv("HYBRIDGE_ENDPOINT", raising=False)
    one = Here(folder, packages, trust, lambda root: kit.build_echo(root / "wide", "FP32", WIDE))
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


@pytest.fixture(params=[Client, TasksClient], ids=["threads", "asyncio"])
def client_of(request: pytest.FixtureRequest) -> Any:
    """Makes a client: of either kind, in turn, with the same face."""
    return request.param


@pytest.fixture
def direct(here: Any) -> Any:
    here.stop()
    here.start(direct=True)
    return here

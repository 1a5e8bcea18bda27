"""A service that answers sequences of the counter (tests/edge/conftest.py), with a clock that only a test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy

from hybridge_edge import trust as trusting
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import EngineResult, load
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.sequences import Sequences, Step
from hybridge_edge.serving.service import Answer, Inference, Service


class Spy:
    """A real engine that a test can hold or spoil, and that remembers the states it was given."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.provider = inner.provider
        self.degraded = ""
        self.fail: Exception | None = None
        self.hold: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.inside = self.most = 0
        self.given: list[Any] = []

    def run(self, inputs: Any, stop: Any = None, state: Any = None) -> EngineResult:
        self.given.append(state)
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.release()
        try:
            if self.hold is not None:
                assert self.hold.wait(30)
            if self.fail is not None:
                raise self.fail
            return self.inner.run(inputs, stop, state)
        finally:
            self.inside -= 1

    def close(self) -> None:
        self.inner.close()


class Here:
    """A service with the counter in it, and a clock that only a test moves."""

    def __init__(self, folder: Path, kit: ModuleType, trust: TrustDocument) -> None:
        self.folder, self.kit, self.trust = folder, kit, trust
        self.now = 1000.0
        self.service = Service(Gate(4), lambda model, digest: None)
        self.sequences = self.service.sequences = Sequences(lambda: self.now)
        self.engine = self.activate("1.0.0")

    def activate(self, version: str, **options: Any) -> Spy:
        built = self.kit.build_counter(self.folder / version, version, **options)
        engine = Spy(load(trusting.open_package(built.folder, self.trust), 1))
        self.service.residents.switch(Resident(built.manifest, built.digest, engine))
        return engine

    def ask(self, step: Step | None, value: numpy.ndarray, call: Call | None = None, **fields: Any) -> Answer:
        request = Inference(self.kit.COUNTER, "", "", {"x": value.reshape(1, -1)}, (), True, step)
        return self.service.infer(request._replace(**fields), call or Call(10.0))

    def sums(self, values: numpy.ndarray, name: int | str = 1, start: bool = True, **options: Any) -> numpy.ndarray:
        """The sums that a sequence of these values is answered with."""
        found = [self.ask(Step(name, start and at == 0), value, **options) for at, value in enumerate(values)]
        return numpy.vstack([one.outputs[0][1] for one in found])

    def live(self) -> int:
        return self.sequences.counts().live

    def ended(self) -> dict[str, int]:
        return {reason: count for reason, count in self.sequences.counts().ended if count}


def in_threads(count: int, work: Callable[[int], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads

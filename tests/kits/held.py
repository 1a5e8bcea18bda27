"""An engine that waits to be let go, so that a test decides when a run ends."""

from __future__ import annotations

from threading import Event, Semaphore
from typing import Any

from hybridge_edge.engine import EngineResult


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

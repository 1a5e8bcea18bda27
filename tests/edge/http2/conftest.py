"""A listener with verbs that need no model, on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridge_edge import runtime
from hybridge_edge.http2.connection import Limits
from hybridge_edge.http2.listener import Listener
from hybridge_edge.http2.verbs import Caller, Lane, Part, Verb
from hybridge_edge.serving import statuses

LIMIT = 1024 * 1024


class Verbs:
    """``/t/Echo`` says what it is told, ``/t/Stream`` each message, ``/t/Wait`` once ``go`` is set, ``/t/Quick``."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)
        self.gone = threading.Event()
        self.left: list[float | None] = []
        self.table = {
            b"/t/Echo": Verb(self.echo),
            b"/t/Stream": Verb(self.echo, streams=True),
            b"/t/Wait": Verb(self.wait),
            b"/t/Quick": Verb(self.echo, Lane.QUICK),
            b"/t/Other": Verb(self.wait, Lane.OTHER),
            b"/t/Fail": Verb(self.fail),
        }

    def echo(self, message: bytes, caller: Caller) -> list[Part]:
        self.left.append(caller.left())
        half = len(message) // 2
        return [message[:half], memoryview(message)[half:]]

    def wait(self, message: bytes, caller: Caller) -> list[Part]:
        caller.when_gone(self.gone.set)
        self.entered.release()
        assert self.go.wait(30)
        return [message]

    def fail(self, message: bytes, caller: Caller) -> list[Part]:
        raise RuntimeError("/secret")


@pytest.fixture
def verbs() -> Verbs:
    return Verbs()


@pytest.fixture
def listen(short: Path, verbs: Verbs) -> Iterator[Callable[..., Path]]:
    """Start a listener; returns its socket's path."""
    started = []

    def start(threads: int = 8, calls: int = 64, limit: int = LIMIT) -> Path:
        path = short / f"h{len(started)}.sock"
        listener = Listener(
            runtime.listen(path, 64), "test", verbs.table, statuses.status, Limits(limit, calls, 0), threads
        )
        listener.start()
        started.append(listener)
        return path

    yield start
    verbs.go.set()
    for listener in started:
        listener.close()

"""Somebody who speaks to the direct socket by hand, well or badly."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy

from hybridge_edge import runtime
from hybridge_edge.client import wording
from hybridge_edge.direct import frames, segments
from hybridge_edge.direct.frames import ERROR, MAGIC, Frames, Place

WIDE = 100_000
PATIENCE_S = 60.0
"""Of a machine that does other things."""
ECHO = "echo-fp32"


def from_threads(ask: Callable[[int], None], count: int = 6) -> None:
    """Call ``ask`` from as many threads at once, each with its number; raises what one of them raised."""
    with ThreadPoolExecutor(count) as pool:
        for asked in [pool.submit(ask, number) for number in range(count)]:
            asked.result()


def wide(seed: int = 0, rows: int = 1) -> Any:
    return numpy.random.default_rng(seed).normal(size=(rows, WIDE)).astype(numpy.float32)


def mapped(here: Any) -> int:
    return int(here.direct.mapped.bytes)


def eventually(condition: Callable[[], object]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


class Peer:
    """Somebody who writes frames by hand."""

    def __init__(self, here: Any, magic: bytes = MAGIC) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(here.folder / runtime.DIRECT_SOCKET))
        with contextlib.suppress(BrokenPipeError):  # it has been turned away already
            self.socket.sendall(magic)
        self.frames = Frames(self.socket, 1 << 28)

    def send(self, kind: int, parts: Any, descriptor: int | None = None) -> None:
        self.frames.send(kind, parts, descriptor)

    def say(self, kind: int, parts: Any, descriptor: int | None = None) -> tuple[int, bytes]:
        self.send(kind, parts, descriptor)
        said, body, _ = self.frames.receive(time.monotonic() + PATIENCE_S)
        return said, body

    def refused(self, kind: int, parts: Any, descriptor: int | None = None) -> str:
        """The sentence with which it is refused."""
        said, body = self.say(kind, parts, descriptor)
        assert said == ERROR, body
        status, sentence = frames.read_refused(body)
        assert status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), sentence
        return sentence

    @staticmethod
    def request(model: str, values: Any, places: Any = (), room: Place = Place(0, 0, 0, 0)) -> list[Any]:  # noqa: B008
        name = "x" if model == ECHO else "window"
        made = wording.parts(
            model, "", "", {name: values}, (), capture=False, timeout_us=0, place=lambda *_: bool(places)
        )
        return frames.asked(list(places), room, made)

    def close(self) -> None:
        self.socket.close()


def memory(size: int, seals: int = segments.WANTED_SEALS, content: bytes = b"") -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    os.pwrite(descriptor, content, 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


Script = Callable[[socket.socket], None]
"""What is done with a connection that was accepted; it is closed after that."""


class Impostor:
    """Listens where a server's direct socket should be, and does as its script says with each connection."""

    def __init__(self, path: Path, script: Script) -> None:
        self.accepted = 0
        self._script = script
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Impostor:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            with accepted, contextlib.suppress(OSError, frames.Ended):
                accepted.settimeout(PATIENCE_S)
                self._script(accepted)


def hear(accepted: socket.socket, *, first: bool = True) -> tuple[int, bytes]:
    """The next frame of a client, its descriptor closed."""
    if first:
        accepted.recv(len(MAGIC), socket.MSG_WAITALL)
    kind, body, descriptor = Frames(accepted, 1 << 28).receive(time.monotonic() + PATIENCE_S)
    if descriptor is not None:
        os.close(descriptor)
    return kind, body


def frame(kind: int, *parts: bytes) -> bytes:
    return b"".join(frames.outgoing(kind, parts))


def leftovers() -> tuple[int, int]:
    """Descriptors that this process has open, and segments of clients that are mapped, on either side."""
    maps = Path("/proc/self/maps").read_text()
    return len(list(Path("/proc/self/fd").iterdir())), maps.count("memfd:hybridge")

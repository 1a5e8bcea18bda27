"""Messages that a bus brings, as readings: windows (``contract.window``), or one encoded input each, such as a JPEG."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import count

from hybridge_edge.arrays import of_bytes, to_array
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.codec import MAX_ENCODED_BYTES
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.window import Window
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Reading

PAYLOADS = ("window", "encoded")


def taker(queue: ReadingQueue, configuration: Configuration, thing: str) -> Callable[[bytes], None]:
    """What to call with each message; it never waits and never raises for what a stranger sent.

    Settings: sourcePayload, one of PAYLOADS; with "encoded" sourceInput, the input that a message is. Such a message
    names no sample, so that it gets an id of its own and one that comes twice is taken twice. Raises UsageError.
    """
    if configuration.choice("sourcePayload", PAYLOADS) == "window":
        return lambda message: _window(queue, message)
    name = configuration.required("sourceInput")
    numbers = Numbers(f"{thing}/{name}")
    return lambda message: _encoded(queue, name, numbers, message)


def plain(text: str) -> str:
    """``text`` with a hyphen for each letter that a sample id may not have."""
    return re.sub(r"[^A-Za-z0-9._:/-]", "-", text)


class Numbers:
    """Sample ids for readings that bring none: PREFIX/START/NUMBER, START in milliseconds since 1970."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{plain(prefix)[:80]}/{time.time_ns() // 1_000_000}"
        self._count = count()

    def __call__(self) -> str:
        return f"{self._prefix}/{next(self._count)}"


def encoded(name: str, sample_id: str, data: bytes) -> Reading:
    """A reading of one encoded input."""
    return Reading(sample_id, {name: of_bytes([data])[0]})


def _window(queue: ReadingQueue, message: bytes) -> None:
    try:
        window = Window.from_bytes(message)
    except InvalidDocument as error:
        queue.refuse(error.message)
        return
    queue.offer(Reading(window.sample_id, {tensor.name: to_array(tensor) for tensor in window.tensors}))


def _encoded(queue: ReadingQueue, name: str, numbers: Numbers, message: bytes) -> None:
    if not 1 <= len(message) <= MAX_ENCODED_BYTES:
        queue.refuse(f"it has {len(message)} bytes, and 1 to {MAX_ENCODED_BYTES} are taken.")
        return
    queue.offer(encoded(name, numbers(), message))

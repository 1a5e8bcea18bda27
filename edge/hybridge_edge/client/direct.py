"""The direct socket underneath: no grpc between, and large tensors in memory that the server maps (see ``direct``)."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from hybridge_edge.client import wording
from hybridge_edge.client.answers import InferenceAnswer, answer_of, refusal
from hybridge_edge.client.sequences import retried
from hybridge_edge.client.streams import LATE_S, REFUSED_S
from hybridge_edge.contract.errors import (
    DeadlineExceeded,
    HybridgeError,
    InvalidDocument,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.direct import frames
from hybridge_edge.direct.frames import ERROR, FULL, INFER, MAGIC, MAP, NUMBER, UNMAP, Ended, Frames, Place
from hybridge_edge.direct.segments import MAX_SEGMENT_BYTES, WANTED_SEALS
from hybridge_edge.engine import Array
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES
from hybridge_edge.serving.sequences import Step

SHARED_BYTES = 128 * 1024
"""From here on a tensor goes through shared memory: where the two ways cost the same, benchmarks/client.py."""
CONNECT_S = 2.0
_ALIGNMENT = 64
_FIRST_SEGMENT = 1024 * 1024
_NOWHERE = Place(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a program makes it; see ``Client.infer``."""

    model: str
    inputs: Mapping[str, Array]
    version: str
    sample_id: str
    outputs: Sequence[str]
    capture: bool
    step: Step | None = None


class NoRoom(Exception):
    """The server takes no more connections here."""


class DirectConnection:
    """One connection, for one request at a time."""

    def __init__(self, path: Path, shared_bytes: int) -> None:
        """Connect. Raises OSError."""
        self._shared_bytes = shared_bytes
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._segment: mmap.mmap | None = None
        self._number = 0
        self._room = 0
        """Bytes that large outputs of the last answers took."""
        try:
            self._socket.settimeout(CONNECT_S)
            self._socket.connect(str(path))
            self._socket.sendall(MAGIC)
        except OSError:
            self._socket.close()
            raise
        self._frames = Frames(self._socket, MAX_MESSAGE_BYTES)
        self.fresh = True
        """Nothing was answered on it yet."""

    def infer(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer:
        """Ask and wait. Raises HybridgeError as the server says; NoRoom; OSError, Ended where the connection broke."""
        places: list[Place] = []
        memory = self._memory_for(asked, until)
        at = 0

        def place(index: int, array: Array) -> bool:
            nonlocal at
            if memory is None or array.dtype.hasobject or array.nbytes < self._shared_bytes:
                return False
            into = numpy.ndarray(array.shape, array.dtype, memory, at)
            numpy.copyto(into, array)
            places.append(Place(index, self._number, at, array.nbytes))
            at = _aligned(at + array.nbytes)
            return True

        parts = wording.parts(
            asked.model,
            asked.version,
            asked.sample_id,
            asked.inputs,
            asked.outputs,
            capture=asked.capture,
            timeout_us=int(timeout_s * 1e6),
            step=asked.step,
            place=place,
        )
        room = _NOWHERE
        if memory is not None and self._room and at < len(memory):
            room = Place(0, self._number, at, len(memory) - at)
        self._frames.socket.settimeout(max(until - time.monotonic(), 0.001) + LATE_S)
        self._frames.send(INFER, frames.asked(places, room, parts))
        return self._answer(self._reply(INFER, until), memory)

    def close(self) -> None:
        self._socket.close()
        self._segment = None

    def _answer(self, body: bytes, memory: mmap.mmap | None) -> InferenceAnswer:
        places, message = frames.read_answered(body)
        response = messages.ModelInferResponse.FromString(message)
        aside = {}
        for place in places:
            if memory is None:
                raise InvalidDocument("The server placed an output in no segment.", "Report it.")
            aside[place.tensor] = memory[place.offset : place.offset + place.size]  # a copy: the next answer goes there
        answer = answer_of(response, aside)
        large = sum(array.nbytes for array in answer.outputs.values() if array.nbytes >= self._shared_bytes)
        self._room = max(self._room, large)
        return answer

    def _memory_for(self, asked: Asked, until: float) -> mmap.mmap | None:
        """The segment, made or made larger as need be; None where nothing is large."""
        large = [
            array.nbytes
            for array in asked.inputs.values()
            if not array.dtype.hasobject and array.nbytes >= self._shared_bytes
        ]
        needed = sum(map(_aligned, large)) + _aligned(self._room)
        if not needed or needed > MAX_SEGMENT_BYTES:
            return None
        if self._segment is None or len(self._segment) < needed:
            size = max(_FIRST_SEGMENT, 1 << (needed - 1).bit_length())
            try:
                self._share(min(size, MAX_SEGMENT_BYTES), until)
            except (InvalidInput, Overloaded):  # the server maps no more: tensors go as they did before
                self._shared_bytes = MAX_MESSAGE_BYTES
        return self._segment

    def _share(self, size: int, until: float) -> None:
        if self._segment is not None:
            self._frames.send(UNMAP, [NUMBER.pack(self._number)])
            self._reply(UNMAP, until)
            self._segment = None
        descriptor = os.memfd_create("hybridge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, WANTED_SEALS)
            segment = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._frames.send(MAP, [], descriptor)
        finally:
            os.close(descriptor)
        self._number = NUMBER.unpack(self._reply(MAP, until))[0]
        self._segment = segment

    def _reply(self, kind: int, until: float) -> bytes:
        said, body, descriptor = self._frames.receive(until + LATE_S)
        if descriptor is not None:
            os.close(descriptor)
        if said == FULL:
            raise NoRoom
        if said == ERROR:
            raise refusal(*frames.read_refused(body))
        self.fresh = False
        if said != kind:
            raise InvalidDocument(f"The server answers with a frame of kind {said}.", "Update the client.")
        return body


class Direct:
    """At most ``most`` connections to one server; safe to share between threads.

    Args:
        path: of the socket, or None where the server is not on this device. shared_bytes: see SHARED_BYTES.
    """

    def __init__(self, path: Path | None, most: int, shared_bytes: int) -> None:
        self._path = path
        self._most = most if path is not None else 0
        self._shared_bytes = shared_bytes
        self._lock = threading.Lock()
        self._idle: list[DirectConnection] = []
        self._open = 0
        self._not_before = 0.0
        self._closed = False

    def infer(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer | None:
        """The answer; None where no connection is free or to be had, so that another way is to be taken.

        Raises:
            HybridgeError: as the server says; Unavailable: the connection broke; DeadlineExceeded.
        """
        connection = self._take()
        if connection is None:
            return None
        try:
            answer = connection.infer(asked, until, timeout_s)
        except TimeoutError:
            self._drop(connection)
            raise DeadlineExceeded(f"No answer within {timeout_s:g} s.", "Allow more time.") from None
        except (OSError, Ended) as error:
            self._drop(connection, refused=connection.fresh)
            # Closed before a word: a server that is full, or that stops; grpc finds out which.
            if connection.fresh and retried(asked.step, True):
                return None
            raise Unavailable(f"The server at {self._path} went away: {error}.", "See hybridge-edge status.") from None
        except NoRoom:
            self._drop(connection, refused=True)
            return None
        except InvalidDocument:
            self._drop(connection)
            raise
        except HybridgeError:
            self._give_back(connection)
            raise
        except BaseException:  # KeyboardInterrupt: its answer would be the next one's
            self._drop(connection)
            raise
        self._give_back(connection)
        return answer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> DirectConnection | None:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._open >= self._most or self._closed or time.monotonic() < self._not_before:
                return None
            self._open += 1
        try:
            assert self._path is not None
            return DirectConnection(self._path, self._shared_bytes)
        except OSError:  # an older server, or none: grpc finds out which
            with self._lock:
                self._open -= 1
                self._not_before = time.monotonic() + REFUSED_S
            return None

    def _give_back(self, connection: DirectConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _drop(self, connection: DirectConnection, *, refused: bool = False) -> None:
        with self._lock:
            self._open -= 1
            if refused:
                self._not_before = time.monotonic() + REFUSED_S
        connection.close()


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

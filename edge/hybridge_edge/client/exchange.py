"""What is said and heard over a connection to the direct socket for one request, without the socket.

``Exchange.infer`` is a generator: it yields what is to be sent, is sent what came back, and returns the answer. Each
client drives it over a socket of its own kind, so the words and the memory are the same for threads and for asyncio.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from hybridge_edge.client.answers import InferenceAnswer, answer_of, refusal
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.memory import Memory
from hybridge_edge.contract.errors import InvalidDocument, InvalidInput, Overloaded
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.direct import frames
from hybridge_edge.direct.frames import ERROR, FULL, INFER, MAP, NUMBER, UNMAP, Part, Place

SHARED_BYTES = 16 * 1024
"""From here on a tensor goes through shared memory: where that costs no more than the socket. Source:
benchmarks/results/crossover.json, to which tests/test_figures.py holds it."""


class NoRoom(Exception):
    """The server takes no more connections here."""


class Say(NamedTuple):
    """A frame to be sent, and the descriptor to go with it."""

    kind: int
    parts: Sequence[Part]
    descriptor: int | None = None


Heard = tuple[int, bytes]
"""A frame that came: its kind and body."""


class Exchange:
    """Of one connection, for one request at a time.

    Attributes:
        fresh: nothing was answered on it yet.
    """

    def __init__(self, shared_bytes: int) -> None:
        self._memory = Memory(shared_bytes)
        self.fresh = True

    def infer(self, asked: Asked, timeout_s: float) -> Generator[Say, Heard, InferenceAnswer]:
        """To be closed where it did not end by itself.

        Raises:
            HybridgeError: as the server says. InvalidDocument: it speaks another language. NoRoom.
        """
        memory = self._memory
        size = memory.begin(asked.inputs)
        if size:
            yield from self._share(size)
        parts = asked.parts(timeout_s, memory.place)
        room = memory.room()
        heard = yield Say(INFER, frames.asked(memory.places, room, parts))
        return self._answer(self._body(INFER, heard), room)

    def close(self) -> None:
        """Give the memory back. Nothing may be under way."""
        self._memory.close()

    def _share(self, size: int) -> Generator[Say, Heard, None]:
        memory = self._memory
        if memory.number:
            self._body(UNMAP, (yield Say(UNMAP, [NUMBER.pack(memory.number)])))
        descriptor = memory.make(size)
        try:
            body = self._body(MAP, (yield Say(MAP, [], descriptor)))
            (memory.number,) = NUMBER.unpack(body)
        except (InvalidInput, Overloaded):  # it maps no more
            memory.refused()
        except struct.error:
            raise InvalidDocument("The server names no segment.", "Update the client.") from None
        finally:
            os.close(descriptor)

    def _body(self, kind: int, heard: Heard) -> bytes:
        """The body of the answer to a frame of ``kind``."""
        said, body = heard
        if said == FULL:
            raise NoRoom
        if said not in (kind, ERROR):
            raise InvalidDocument(f"The server answers with a frame of kind {said}.", "Update the client.")
        self.fresh = False
        if said == ERROR:
            raise refusal(*frames.read_refused(body))
        return body

    def _answer(self, body: bytes, room: Place) -> InferenceAnswer:
        places, message = frames.read_answered(body)
        try:
            response = messages.ModelInferResponse.FromString(message)
        except DecodeError:
            raise InvalidDocument("The server's answer is no ModelInferResponse.", "Update the client.") from None
        answer = answer_of(response, {place.tensor: self._memory.read(place, room) for place in places})
        self._memory.answered(answer.outputs)
        return answer

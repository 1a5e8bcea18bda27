"""What goes over the direct socket, written and read; docs/direct.md.

A connection begins with MAGIC from the client. Then the client sends a frame and the server answers it with one;
nothing is sent ahead. A frame is its body's length (u32, little-endian), its kind (u8) and its body.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from hybridge_edge.contract.errors import InvalidDocument

MAGIC = b"HYD1"
INFER, MAP, UNMAP, ERROR, FULL = 1, 2, 3, 4, 5
"""Kinds. An answer has the kind of what it answers, or ERROR: the name of a status, a zero byte, a sentence. FULL is
all that a client hears for which there is no room."""
HEAD = struct.Struct("<IB")
ASKED = struct.Struct("<HHQQ")
"""Begins an INFER: how many inputs lie in segments; segment (0 for none), offset and size of the room for outputs."""
PLACE = struct.Struct("<HHQQ")
"""A tensor that lies in a segment: its index among the inputs or outputs, the segment, offset, size in bytes."""
ANSWERED = struct.Struct("<H")
"""Begins the answer to an INFER: how many outputs lie in the room for them."""
NUMBER = struct.Struct("<H")
"""A segment, in MAP's answer and in UNMAP."""
MAX_PLACED = 64
FRAME_S = 30.0
"""From the first byte of a frame to its last, and for each step of sending one."""
_FIRST_READ = 64 * 1024
_MOST_PARTS = 512
"""Of one sendmsg(2); the system allows 1024."""
Part = Any
"""bytes, or a memoryview of bytes."""


class Place(NamedTuple):
    """Where a tensor lies: its index among the inputs or outputs; offset and size in bytes."""

    tensor: int
    segment: int
    offset: int
    size: int


class Ended(Exception):
    """The other side has closed the connection, between two frames."""


class Frames:
    """Frames over a connected socket; one thread at a time.

    Args:
        limit: bytes of a body.
    """

    def __init__(self, connected: socket.socket, limit: int) -> None:
        self.socket = connected
        self._limit = limit
        self._buffer = bytearray(_FIRST_READ)

    def send(self, kind: int, parts: Sequence[Part], descriptor: int | None = None) -> None:
        """Send a frame. Raises OSError."""
        whole = [HEAD.pack(sum(map(len, parts)), kind), *parts]
        if len(whole) > _MOST_PARTS:
            whole = [b"".join(whole)]
        if descriptor is None:
            sent = self.socket.sendmsg(whole)
        else:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            sent = self.socket.sendmsg(whole, [rights])
        for part in whole:
            size = len(part)
            if sent < size:
                self.socket.sendall(memoryview(part)[sent:])
            sent = max(sent - size, 0)

    def receive(self, until: float | None = None) -> tuple[int, bytes, int | None]:
        """The next frame's kind and body, and the descriptor that came with it.

        Args:
            until: monotonic seconds; None waits for as long as nothing comes, and FRAME_S for the rest of a frame.

        Raises:
            Ended, OSError; TimeoutError. InvalidDocument: it is no frame, or larger than allowed.
        """
        buffer = self._buffer
        view = memoryview(buffer)
        self._bound(until)
        got, rights, _, _ = self.socket.recvmsg_into([view], _RIGHTS_SPACE)
        descriptor = _descriptor(rights)
        try:
            if not got:
                raise Ended
            if until is None and (got < HEAD.size or got < HEAD.size + HEAD.unpack_from(buffer)[0]):
                until = time.monotonic() + FRAME_S
            while got < HEAD.size:
                got += self._more(view[got : HEAD.size], until)
            size, kind = HEAD.unpack_from(buffer)
            if size > self._limit:
                raise InvalidDocument(f"A frame of {size} bytes came.", f"Send at most {self._limit}.")
            if got > HEAD.size + size:
                raise InvalidDocument("More than one frame came.", "Wait for each answer.")
            if HEAD.size + size <= len(buffer):
                while got < HEAD.size + size:
                    got += self._more(view[got : HEAD.size + size], until)
                return kind, bytes(view[HEAD.size : got]), descriptor
            body = bytearray(size)
            body[: got - HEAD.size] = view[HEAD.size : got]
            rest, at = memoryview(body), got - HEAD.size
            while at < size:
                at += self._more(rest[at:], until)
            return kind, bytes(body), descriptor
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

    def _more(self, into: memoryview, until: float | None) -> int:
        self._bound(until)
        got = self.socket.recv_into(into)
        if not got:
            raise ConnectionError("The connection ended in the middle of a frame.")
        return got

    def _bound(self, until: float | None) -> None:
        if until is None:
            if self.socket.gettimeout() is not None:
                self.socket.settimeout(None)
            return
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)


_RIGHTS_SPACE = socket.CMSG_SPACE(struct.calcsize("i"))
"""Room for one descriptor: the system closes what does not fit (unix(7))."""


def _descriptor(rights: list[tuple[int, int, bytes]]) -> int | None:
    found = [
        number
        for level, kind, data in rights
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (number,) in struct.iter_unpack("i", data[: len(data) // 4 * 4])
    ]
    for extra in found[1:]:
        os.close(extra)
    return found[0] if found else None


def asked(places: Sequence[Place], room: Place, message: Sequence[Part]) -> list[Part]:
    """The body of an INFER; ``room`` is where outputs may go, of segment 0 where nowhere."""
    begin = ASKED.pack(len(places), room.segment, room.offset, room.size)
    return [begin, *[PLACE.pack(*place) for place in places], *message]


def read_asked(body: bytes) -> tuple[list[Place], Place, bytes]:
    """The other way round. Raises InvalidDocument."""
    try:
        count, segment, offset, size = ASKED.unpack_from(body)
        places = _places(body, ASKED.size, count)
    except struct.error:
        raise InvalidDocument("The frame is shorter than it says.") from None
    return places, Place(0, segment, offset, size), body[ASKED.size + count * PLACE.size :]


def answered(places: Sequence[Place], message: Sequence[Part]) -> list[Part]:
    """The body of the answer to an INFER."""
    return [ANSWERED.pack(len(places)), *[PLACE.pack(*place) for place in places], *message]


def read_answered(body: bytes) -> tuple[list[Place], bytes]:
    """The other way round. Raises InvalidDocument."""
    try:
        (count,) = ANSWERED.unpack_from(body)
        places = _places(body, ANSWERED.size, count)
    except struct.error:
        raise InvalidDocument("The frame is shorter than it says.") from None
    return places, body[ANSWERED.size + count * PLACE.size :]


def _places(body: bytes, at: int, count: int) -> list[Place]:
    if count > MAX_PLACED:
        raise InvalidDocument(f"{count} tensors lie in segments.", f"Place at most {MAX_PLACED}.")
    return [Place(*PLACE.unpack_from(body, at + number * PLACE.size)) for number in range(count)]


def refused(status: str, sentence: str) -> list[Part]:
    """The body of an ERROR."""
    return [status.encode(), b"\0", sentence.encode()]


def read_refused(body: bytes) -> tuple[str, str]:
    """A status and a sentence."""
    status, _, sentence = body.partition(b"\0")
    return status.decode(errors="replace"), sentence.decode(errors="replace")

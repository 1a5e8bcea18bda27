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


class Incoming:
    """Frames as they come in, one after the other, without the reading itself.

    Args:
        limit: bytes of a body.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._view = memoryview(bytearray(_FIRST_READ))
        self._large: memoryview | None = None
        """Where a body goes that is larger than the first read."""
        self._got = 0
        self._wanted = 0
        """Of the whole frame, once its head is there."""

    def room(self) -> memoryview:
        """Where the next bytes are to be read into; never beyond the frame, once any of it is there."""
        if self._large is not None:
            return self._large[self._got - HEAD.size :]
        return self._view[self._got : self._wanted or HEAD.size] if self._got else self._view

    def take(self, count: int) -> tuple[int, bytes] | None:
        """``count`` bytes were read: the frame's kind and body where it is whole now.

        Raises:
            Ended, ConnectionError: none were, between two frames or within one. InvalidDocument: it is no frame, or
                larger than allowed.
        """
        if not count:
            if self._got:
                raise ConnectionError("The connection ended in the middle of a frame.")
            raise Ended
        self._got += count
        if not self._wanted:
            if self._got < HEAD.size:
                return None
            self._begin()
        if self._got < self._wanted:
            return None
        body = bytes(self._view[HEAD.size : self._wanted] if self._large is None else self._large)
        kind = self._view[HEAD.size - 1]
        self._large, self._got, self._wanted = None, 0, 0
        return kind, body

    def _begin(self) -> None:
        size, _ = HEAD.unpack_from(self._view)
        if size > self._limit:
            raise InvalidDocument(f"A frame of {size} bytes came.", f"Send at most {self._limit}.")
        self._wanted = HEAD.size + size
        if self._got > self._wanted:
            raise InvalidDocument("More than one frame came.", "Wait for each answer.")
        if self._wanted > len(self._view):
            self._large = memoryview(bytearray(size))
            self._large[: self._got - HEAD.size] = self._view[HEAD.size : self._got]


def outgoing(kind: int, parts: Sequence[Part]) -> list[Part]:
    """A whole frame, in parts for one sendmsg(2)."""
    whole = [HEAD.pack(sum(map(len, parts)), kind), *parts]
    return whole if len(whole) <= _MOST_PARTS else [b"".join(whole)]


def send_some(connected: socket.socket, whole: Sequence[Part], descriptor: int | None) -> int:
    """Send as much as the system takes at once, and the descriptor with it; how many bytes. Raises OSError."""
    if descriptor is None:
        return connected.sendmsg(whole)
    return connected.sendmsg(whole, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))])


def unsent(whole: Sequence[Part], sent: int) -> list[Part]:
    """What is left of the parts after ``sent`` bytes of them."""
    left: list[Part] = []
    for part in whole:
        if sent < len(part):
            left.append(memoryview(part)[sent:] if sent else part)
        sent = max(sent - len(part), 0)
    return left


class Frames:
    """Frames over a connected socket; one thread at a time.

    Args:
        limit: bytes of a body.
    """

    def __init__(self, connected: socket.socket, limit: int) -> None:
        self.socket = connected
        self._incoming = Incoming(limit)

    def send(self, kind: int, parts: Sequence[Part], descriptor: int | None = None) -> None:
        """Send a frame. Raises OSError."""
        whole = outgoing(kind, parts)
        for part in unsent(whole, send_some(self.socket, whole, descriptor)):
            self.socket.sendall(part)

    def receive(self, until: float | None = None) -> tuple[int, bytes, int | None]:
        """The next frame's kind and body, and the descriptor that came with it.

        Args:
            until: monotonic seconds; None waits for as long as nothing comes, and FRAME_S for the rest of a frame.

        Raises:
            Ended, OSError; TimeoutError. InvalidDocument: it is no frame, or larger than allowed.
        """
        incoming = self._incoming
        self._bound(until)
        got, rights, _, _ = self.socket.recvmsg_into([incoming.room()], _RIGHTS_SPACE)
        descriptor = _descriptor(rights)
        try:
            frame = incoming.take(got)
            if frame is None and until is None:
                until = time.monotonic() + FRAME_S
            while frame is None:
                self._bound(until)
                frame = incoming.take(self.socket.recv_into(incoming.room()))
            return (*frame, descriptor)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise

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

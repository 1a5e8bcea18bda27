"""Memory that a client made (memfd_create(2)) and this server maps: checked when it comes, gone with its connection.

What a client can still do to a segment after it was mapped is write into it. So a tensor is copied out before anything
of it is looked at, and nothing that is kept ever lies in one. What it can not do is make it shorter, which would end
this process with SIGBUS: without the seals against that a segment is not taken (fcntl(2), F_ADD_SEALS).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from threading import Lock

from hybridge_edge.contract.errors import InvalidInput, Overloaded
from hybridge_edge.direct.frames import Place

MAX_SEGMENT_BYTES = 256 * 1024 * 1024
MAX_SEGMENTS = 4
"""Of one connection."""
MAX_MAPPED_BYTES = 512 * 1024 * 1024
"""Of all connections: a hole in a segment takes memory of whoever reads it."""
WANTED_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class Mapped:
    """How much is mapped, over all connections."""

    def __init__(self, most: int = MAX_MAPPED_BYTES) -> None:
        self._lock = Lock()
        self._most = most
        self.bytes = 0

    def take(self, size: int) -> None:
        """Raises Overloaded."""
        with self._lock:
            if self.bytes + size > self._most:
                raise Overloaded(
                    f"Clients share {self.bytes} bytes already.", f"{self._most} are allowed; send tensors inline."
                )
            self.bytes += size

    def give_back(self, size: int) -> None:
        with self._lock:
            self.bytes -= size


class Segments:
    """Of one connection, and of its thread alone."""

    def __init__(self, mapped: Mapped) -> None:
        self._mapped = mapped
        self._last = 0
        self._open: dict[int, mmap.mmap] = {}

    def add(self, descriptor: int | None) -> int:
        """Map what came, and close the descriptor; the segment's number.

        Raises:
            InvalidInput: it is no sealed memfd of an allowed size, or one too many. Overloaded: too much is mapped.
        """
        if descriptor is None:
            raise InvalidInput("No descriptor came.", "Send one memfd with the frame (SCM_RIGHTS).")
        try:
            size = self._checked(descriptor)
            self._mapped.take(size)
            try:
                segment = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            except (OSError, ValueError):
                self._mapped.give_back(size)
                raise InvalidInput(
                    "The segment cannot be mapped for reading and writing.",
                    "Seal it against shrinking and growing only.",
                ) from None
        finally:
            os.close(descriptor)
        self._last += 1
        self._open[self._last] = segment
        return self._last

    def refuse(self, descriptor: int) -> None:
        """Close what came with a frame that has no use for it. Raises InvalidInput."""
        os.close(descriptor)
        raise InvalidInput("A descriptor came with a frame that takes none.", "Send it with MAP.")

    def remove(self, number: int) -> None:
        """Raises InvalidInput."""
        segment = self._open.pop(number, None)
        if segment is None:
            raise _unknown(number)
        self._mapped.give_back(len(segment))
        segment.close()

    def read(self, place: Place) -> bytes:
        """A copy of what lies there. Raises InvalidInput."""
        segment = self._within(place)
        return segment[place.offset : place.offset + place.size]

    def write(self, room: Place, contents: Sequence[tuple[int, memoryview]]) -> list[Place]:
        """Put (index, bytes) one behind the other into a room that holds them; where each lies. Raises InvalidInput."""
        segment, at, places = self._within(room), room.offset, []
        for index, content in contents:
            size = len(content)
            segment[at : at + size] = content
            places.append(Place(index, room.segment, at, size))
            at += size
        return places

    def check(self, room: Place) -> None:
        """Raises InvalidInput where there is no such room."""
        self._within(room)

    def close(self) -> None:
        for number in tuple(self._open):
            self.remove(number)

    def _within(self, place: Place) -> mmap.mmap:
        segment = self._open.get(place.segment)
        if segment is None:
            raise _unknown(place.segment)
        if place.offset + place.size > len(segment):
            raise InvalidInput(
                f"Bytes {place.offset} to {place.offset + place.size} are asked of a segment of {len(segment)}.",
                "Stay inside the segment.",
            )
        return segment

    def _checked(self, descriptor: int) -> int:
        """The size of a memfd that may be mapped."""
        if len(self._open) >= MAX_SEGMENTS:
            raise InvalidInput(f"{MAX_SEGMENTS} segments are mapped already.", "Unmap one first.")
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:  # no file of memory
            seals = 0
        if seals & WANTED_SEALS != WANTED_SEALS:
            raise InvalidInput(
                "What came is no memfd that is sealed against shrinking and growing.",
                "Make it with memfd_create and F_ADD_SEALS.",
            )
        size = os.fstat(descriptor).st_size
        if not 0 < size <= MAX_SEGMENT_BYTES:
            raise InvalidInput(f"The segment has {size} bytes.", f"Share 1 to {MAX_SEGMENT_BYTES}.")
        return size


def _unknown(number: int) -> InvalidInput:
    return InvalidInput(f"This connection has no segment {number}.", "Map one first.")

"""The memory that one connection shares with the server: made, filled with inputs, read for outputs. No socket here."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping

import numpy

from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.direct.frames import MAX_PLACED, Place
from hybridge_edge.direct.segments import MAX_SEGMENT_BYTES, WANTED_SEALS
from hybridge_edge.engine import Array

_ALIGNMENT = 64
_FIRST_SEGMENT = 1024 * 1024
NOWHERE = Place(0, 0, 0, 0)


class Memory:
    """At most one segment, made anew where a request needs a larger one.

    Args:
        shared_bytes: from which size on a tensor lies in it.

    Attributes:
        number: the segment's, as the server named it; 0 where there is none. places: of the inputs placed last.
    """

    def __init__(self, shared_bytes: int) -> None:
        self._shared_bytes = shared_bytes
        self._segment: mmap.mmap | None = None
        self._outputs = 0
        """Bytes that large outputs of one answer took at most."""
        self._used = False
        self._at = 0
        self.number = 0
        self.places: list[Place] = []

    def begin(self, inputs: Mapping[str, Array]) -> int:
        """Begin a request with these inputs; bytes of the segment that is to be made for it, 0 where none is."""
        self._at, self.places = 0, []
        large = sum(_aligned(array.nbytes) for array in inputs.values() if self._is_large(array))
        needed = large + _aligned(self._outputs)
        self._used = 0 < needed <= MAX_SEGMENT_BYTES
        if not self._used or (self._segment is not None and len(self._segment) >= needed):
            return 0
        return min(max(_FIRST_SEGMENT, 1 << (needed - 1).bit_length()), MAX_SEGMENT_BYTES)

    def make(self, size: int) -> int:
        """Make a segment in place of the one there; its descriptor, to be closed by the caller. Raises OSError."""
        self.close()
        descriptor = os.memfd_create("hybridge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, WANTED_SEALS)
            self._segment = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def refused(self) -> None:
        """The server maps no more: tensors go inline from now on."""
        self.close()
        self._shared_bytes, self._outputs = MAX_SEGMENT_BYTES + 1, 0

    def place(self, index: int, array: Array) -> bool:
        """Copy an input into the segment where it is large; whether it was."""
        segment = self._segment
        if segment is None or not self._used or not self._is_large(array) or len(self.places) >= MAX_PLACED:
            return False
        numpy.copyto(numpy.ndarray(array.shape, array.dtype, segment, self._at), array)
        self.places.append(Place(index, self.number, self._at, array.nbytes))
        self._at = _aligned(self._at + array.nbytes)
        return True

    def room(self) -> Place:
        """Where outputs may go, behind the inputs; NOWHERE where none were large so far."""
        if self._segment is None or not self._used or not self._outputs or self._at >= len(self._segment):
            return NOWHERE
        return Place(0, self.number, self._at, len(self._segment) - self._at)

    def read(self, place: Place, room: Place) -> bytes:
        """A copy of an output: the next answer goes there. Raises InvalidDocument where it lies outside the room."""
        end = place.offset + place.size
        outside = place.segment != room.segment or place.offset < room.offset or end > room.offset + room.size
        if self._segment is None or not room.segment or outside:
            raise InvalidDocument("The server placed an output outside of the room for it.", "Report it.")
        return self._segment[place.offset : end]

    def answered(self, outputs: Mapping[str, Array]) -> None:
        """Remember how much room outputs take."""
        self._outputs = max(self._outputs, sum(one.nbytes for one in outputs.values() if self._is_large(one)))

    def close(self) -> None:
        """Unmap it. The server's own mapping goes with the connection, or with UNMAP."""
        segment, self._segment, self.number = self._segment, None, 0
        if segment is not None:
            segment.close()

    def _is_large(self, array: Array) -> bool:
        return not array.dtype.hasobject and array.nbytes >= self._shared_bytes


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

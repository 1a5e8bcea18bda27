"""The bytes of one connection as frames; of DATA as much as has come, for it may be long. RFC 9113, section 4."""

from __future__ import annotations

from typing import NamedTuple

from hybridge_edge.http2 import frames
from hybridge_edge.http2.frames import ConnectionFault
from hybridge_edge.http2.verbs import Part

FRAME_BYTES = 1024 * 1024
"""The largest frame of DATA that we take."""
MAX_BLOCK_BYTES = 32 * 1024
"""Of a head as it is sent, and of every other frame."""
_VIEWED_BYTES = 4096
"""Larger pieces are views of what was read: a large message is copied once, when it is put together."""


class Frame(NamedTuple):
    """A frame, or a piece of one.

    Attributes:
        length: of the payload of a frame that begins here, padding included; -1 where a piece goes on.
    """

    kind: int
    flags: int
    stream: int
    payload: Part
    length: int


class Reader:
    """Fed with what the client sent, asked for frames. Raises ConnectionFault where there can be no such frame.

    Attributes:
        left: bytes of the DATA frame that passes now. taken: frames that came whole, or began if they are DATA.
    """

    __slots__ = ("_at", "_buffer", "_flags", "_preface", "_stream", "left", "taken")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self._preface = len(frames.PREFACE)
        self._stream = self._flags = 0
        self.left = 0
        self.taken = 0

    @property
    def in_between(self) -> bool:
        """Whether no frame has come in part."""
        return not self.left and self._at >= len(self._buffer)

    def feed(self, data: bytes) -> None:
        """What came; ``next`` tells what it is."""
        rest = self._buffer[self._at :]
        self._buffer = rest + data if rest else data
        self._at = 0

    def next(self) -> Frame | None:
        """The next frame, or piece of one of DATA; END_STREAM is with its last piece. None: it has not come."""
        if self._preface and not self._pass_preface():
            return None
        buffer, at = self._buffer, self._at
        there = len(buffer) - at
        if self.left:
            return self._piece(there, -1) if there else None
        there -= frames.HEADER
        if there < 0:
            return None
        length, kind, flags, stream = frames.read_head(buffer, at)
        if length > (FRAME_BYTES if kind == frames.DATA else MAX_BLOCK_BYTES):
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == frames.DATA and not flags & frames.PADDED:
            self._at = at + frames.HEADER
            self._stream, self._flags, self.left = stream, flags, length
            self.taken += 1
            return self._piece(there, length)
        if there < length:
            return None
        self._at = at + frames.HEADER + length
        self.taken += 1
        return Frame(kind, flags, stream, buffer[at + frames.HEADER : self._at], length)

    def _piece(self, there: int, length: int) -> Frame:
        size = min(self.left, there)
        at = self._at
        self._at = at + size
        self.left -= size
        buffer = self._buffer
        payload: Part = memoryview(buffer)[at : at + size] if size > _VIEWED_BYTES else buffer[at : at + size]
        flags = self._flags & ~frames.END_STREAM if self.left else self._flags
        return Frame(frames.DATA, flags, self._stream, payload, length)

    def _pass_preface(self) -> bool:
        said = self._buffer[: self._preface]
        start = len(frames.PREFACE) - self._preface
        if frames.PREFACE[start : start + len(said)] != said:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "no HTTP/2 preface")
        self._preface -= len(said)
        self._at = len(said)
        return not self._preface

"""One call as a stream of HTTP/2 carries it: messages in, an answer out. gRPC's own frame is a flag and a length.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import struct
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hybridge_edge.http2.heads import Head
from hybridge_edge.http2.verbs import Part, Verb

PREFIX = struct.Struct(">BI")
_DEFLATE, _GZIP = zlib.MAX_WBITS, zlib.MAX_WBITS | 16
_WINDOWS = {b"gzip": _GZIP, b"deflate": _DEFLATE}
OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 8, 12, 13


class Refusal(Exception):
    """Ends one call: a gRPC status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Waiting(NamedTuple):
    """A message that has come, packed as it came: what it unpacks to is made when its turn has come.

    Attributes:
        reserved: of the listener's memory, until it is answered.
    """

    content: bytes
    packed: bool
    reserved: int


class Stream:
    """State of one call. What comes in is changed by the thread that reads the connection; ``messages``, ``busy`` and
    what goes out under the connection's lock.

    Attributes:
        credit: bytes that the client may still send here. window: bytes that we may. over: the client has said all.
        ended: so have we, or nobody listens. begun: our head is sent. busy: a message is being answered.
        known: the length of the message that comes in is. lacks: that length, while it is not whole. ahead: bytes of
            ``messages``. reserved: of the listener's memory, in all; coming, answering: of that, for the message that
            comes in, and for the one that is answered.
        ending: what we end with once all is sent.
    """

    __slots__ = (
        "_gone", "ahead", "answering", "begun", "busy", "chunks", "coming", "credit", "deadline", "encoding", "ended",
        "ending", "have", "known", "lacks", "messages", "number", "outgoing", "over", "reserved", "verb", "window",
    )  # fmt: skip

    def __init__(self, number: int, head: Head, verb: Verb, credit: int, window: int) -> None:
        self.number = number
        self.encoding = head.encoding
        self.credit = credit
        self.window = window
        self.deadline = None if head.timeout_s is None else time.monotonic() + head.timeout_s
        self.verb = verb
        self.over = self.ended = self.begun = self.busy = False
        self.chunks: list[Part] = []
        self.have = 0
        self.known = False
        self.lacks = self.coming = self.reserved = self.answering = self.ahead = 0
        self.messages: deque[Waiting] = deque()
        self.outgoing: deque[memoryview] = deque()
        self.ending: tuple[int, str] | None = None
        self._gone: Callable[[], None] | None = None

    def left(self) -> float | None:
        """Seconds until the caller's deadline; None where it set none."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once the caller goes, at once where it has; for the message that is answered now."""
        self._gone = tell
        if self.ended:
            tell()

    def gone(self) -> None:
        """Nobody listens any more."""
        self.ended = True
        tell = self._gone
        if tell is not None:
            tell()

    def take(self, data: Part) -> None:
        """Bytes of messages, as they come."""
        self.chunks.append(data)
        self.have += len(data)

    def next_message(self, limit: int, reserve: Callable[[Stream, int], int]) -> Waiting | None:
        """A whole message, as it was sent, or None where it has not come yet.

        Args:
            limit: bytes of a message. reserve: asked for the memory of a message as soon as its length is known;
                says how much of it is counted.

        Raises:
            Refusal: it is too large, or no message.
        """
        if self.have < PREFIX.size:
            return None
        if len(self.chunks[0]) < PREFIX.size:
            self.chunks = [b"".join(self.chunks)]
        packed, length = PREFIX.unpack_from(self.chunks[0])
        if not self.known:
            if length > limit:
                raise Refusal(RESOURCE_EXHAUSTED, f"The message has {length} bytes. Send at most {limit}.")
            if packed > 1:
                raise Refusal(INTERNAL, "A message begins with an unknown flag.")
            self.known = True
            self.coming = reserve(self, PREFIX.size + length)
            self.reserved += self.coming
            self.lacks = PREFIX.size + length
        over = self.have - PREFIX.size - length
        if over < 0:
            return None
        rest = bytes(self.chunks[-1][len(self.chunks[-1]) - over :]) if over else b""
        if over:
            self.chunks[-1] = self.chunks[-1][:-over]
        self.chunks[0] = memoryview(self.chunks[0])[PREFIX.size :]
        message = b"".join(self.chunks)
        self.chunks = [rest] if rest else []
        self.have = over
        self.known = False
        self.lacks = 0
        found = Waiting(message, bool(packed), self.coming)
        self.coming = 0
        return found


def unpack(message: bytes, encoding: bytes, limit: int) -> bytes:
    """A compressed message. Raises Refusal, also where more than ``limit`` bytes would come out."""
    window = _WINDOWS.get(encoding)
    if window is None:
        raise Refusal(UNIMPLEMENTED, "Messages may be packed with gzip or deflate.")
    try:
        opened = zlib.decompressobj(window)
        found = opened.decompress(message, limit)
        if opened.unconsumed_tail or (not opened.eof and opened.decompress(b"", 1)):
            raise Refusal(RESOURCE_EXHAUSTED, f"The message unpacks to more than {limit} bytes.")
        if not opened.eof:
            raise Refusal(INTERNAL, "A packed message is cut off.")
    except zlib.error:
        raise Refusal(INTERNAL, "A packed message cannot be unpacked.") from None
    return found

"""One client's connection, without its socket: bytes in, messages to answer out; answers in, bytes out. RFC 9113.

One thread at a time reads (``feed``, ``next``), any may answer. What comes in never waits for what goes out: an answer
that the client's window has no room for stays here, its thread goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from hybridge_edge.http2 import frames
from hybridge_edge.http2.frames import ConnectionFault
from hybridge_edge.http2.heads import MAX_LIST_BYTES, TABLE_BYTES, Head, Heads
from hybridge_edge.http2.outgoing import Outgoing, Transmit
from hybridge_edge.http2.reader import FRAME_BYTES, MAX_BLOCK_BYTES, Frame, Reader
from hybridge_edge.http2.stream import INTERNAL, OK, PREFIX, RESOURCE_EXHAUSTED, UNIMPLEMENTED, Refusal, Stream, unpack
from hybridge_edge.http2.verbs import Part, Verb

STREAM_WINDOW = 1024 * 1024
"""Bytes that a client may send in one call before we have looked at any. A longer message gets more once its length is
known."""
CONNECTION_WINDOW = 16 * 1024 * 1024
MAX_AHEAD = 1024
"""Messages that a stream's client may have sent and not got answered."""
_HTTP = {"method": 405, "content": 415}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection: bytes of a message, calls at once; and of all: bytes of large messages in memory."""

    message_bytes: int
    calls: int
    memory_bytes: int = 256 * 1024 * 1024


class Connection:
    """The protocol's state for one client.

    Args:
        verbs: by path. transmit: takes bytes to send, in order; called with the lock held, must not block.
        reserve: asked before a message of so many bytes is collected for a stream; how much of it is counted until it
            is answered; raises Refusal. release: takes so much back.

    Raises (``feed`` and ``next``):
        ConnectionFault: the client broke the protocol; say so with ``goodbye`` and close.
    """

    def __init__(
        self,
        verbs: Mapping[bytes, Verb],
        limits: Limits,
        transmit: Transmit,
        reserve: Callable[[Stream, int], int],
        release: Callable[[Stream, int], None],
    ) -> None:
        self.lock = Lock()
        self.reader = Reader()
        self.streams: dict[int, Stream] = {}
        self._verbs = verbs
        self._limits = limits
        self._transmit = transmit
        self._reserve = reserve
        self._release = release
        self._heads = Heads()
        self._out = Outgoing(transmit, self._done)
        self._settled = False
        self._block: tuple[int, int, list[bytes]] | None = None
        """A head whose continuation is to come: stream, flags, what came."""
        self._receiver: Stream | None = None
        """Whose DATA passes now."""
        self._last = 0
        self._credit = CONNECTION_WINDOW

    def greet(self) -> None:
        """Our settings, which come first."""
        with self.lock:
            wanted = {
                frames.HEADER_TABLE_SIZE: TABLE_BYTES,
                frames.MAX_CONCURRENT_STREAMS: self._limits.calls,
                frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                frames.MAX_FRAME_SIZE: FRAME_BYTES,
                frames.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
            }
            more = frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
            self._transmit([frames.settings(wanted) + more])

    @property
    def begun(self) -> bool:
        """Whether the client has said what it is."""
        return self._settled

    def feed(self, data: bytes) -> None:
        """What the client sent; ``next`` tells what follows from it."""
        self.reader.feed(data)

    def next(self) -> tuple[Stream, bytes] | None:
        """The next message to answer; None where more bytes must come first."""
        with self.lock:
            while True:
                frame = self.reader.next()
                if frame is None:
                    return None
                kind = frame.kind
                if not self._settled and kind != frames.SETTINGS:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, "no SETTINGS behind the preface")
                if self._block is not None and kind != frames.CONTINUATION:
                    raise ConnectionFault(frames.PROTOCOL_ERROR, "a head without its end")
                found = self._take_data(frame) if kind == frames.DATA else self._take(*frame[:4])
                if found is not None:
                    return found

    def _take_data(self, frame: Frame) -> tuple[Stream, bytes] | None:
        if frame.length >= 0:
            self._receiver = self._receiving(frame.stream, frame.length)
        stream = self._receiver
        if stream is None or stream.ended:
            return None
        data = frames.unpadded(bytes(frame.payload), frame.flags) if frame.flags & frames.PADDED else frame.payload
        return self._received(stream, data, last=bool(frame.flags & frames.END_STREAM))

    def _receiving(self, number: int, length: int) -> Stream | None:
        """Account for a DATA frame; None where its stream is closed already."""
        self._credit -= length
        if self._credit < 0:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._credit < CONNECTION_WINDOW // 2:
            self._transmit([frames.window_update(0, CONNECTION_WINDOW - self._credit)])
            self._credit = CONNECTION_WINDOW
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last or not number & 1:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA of no stream")
            return None
        if stream.over:
            raise ConnectionFault(frames.STREAM_CLOSED, "DATA behind the end of its stream")
        stream.credit -= length
        if stream.credit < 0:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more than the stream's window")
        return stream

    def _received(self, stream: Stream, data: Part, *, last: bool) -> tuple[Stream, bytes] | None:
        try:
            if data:
                stream.take(data)
                while (message := stream.next_message(self._limits.message_bytes, self._reserve)) is not None:
                    stream.messages.append(message)
                    stream.ahead += PREFIX.size + len(message.content)
                    if len(stream.messages) > (MAX_AHEAD if stream.verb.streams else 1):
                        raise Refusal(RESOURCE_EXHAUSTED, "More messages than this call takes.")
            if last:
                stream.over = True
                if stream.have:
                    raise Refusal(INTERNAL, "A message is cut off.")
                if not stream.messages and not stream.verb.streams:
                    raise Refusal(INTERNAL, "The call has no message.")
            return self._turn(stream)
        except Refusal as refusal:
            self._out.end(stream, refusal.status, refusal.sentence)
            stream.gone()  # where it is being answered, for nobody now
            return None

    def _turn(self, stream: Stream) -> tuple[Stream, bytes] | None:
        """Its next message, if one may be answered now. Raises Refusal where it cannot be unpacked."""
        if stream.busy or stream.ended:
            return None
        if stream.messages and (stream.verb.streams or stream.over):
            waiting = stream.messages.popleft()
            stream.busy = True
            stream.answering = waiting.reserved
            stream.ahead -= PREFIX.size + len(waiting.content)
            content = waiting.content
            if waiting.packed:
                content = unpack(content, stream.encoding, self._limits.message_bytes)
            self._make_room(stream)
            return stream, content
        if stream.verb.streams and stream.over:
            self._out.end(stream, OK, "")
        else:
            self._make_room(stream)
        return None

    def _make_room(self, stream: Stream) -> None:
        """Let the client send more: a window's worth beyond what waits here, or the rest of a message that is next."""
        if stream.over:
            return
        room = STREAM_WINDOW - stream.ahead - stream.have
        if not stream.busy and not stream.messages:
            room = max(room, stream.lacks - stream.have)
        if stream.credit < room // 2 or (stream.credit < room and stream.lacks - stream.have > stream.credit):
            self._grant(stream, room - stream.credit)

    def _grant(self, stream: Stream, size: int) -> None:
        stream.credit += size
        self._transmit([frames.window_update(stream.number, size)])

    def _take(self, kind: int, flags: int, number: int, payload: Any) -> tuple[Stream, bytes] | None:
        if kind == frames.HEADERS:
            return self._head_begins(number, flags, payload)
        if kind == frames.CONTINUATION:
            return self._head_goes_on(number, flags, payload)
        if kind == frames.WINDOW_UPDATE:
            self._widen(number, frames.number(payload) & frames.LARGEST_WINDOW)
        elif kind == frames.RST_STREAM:
            frames.number(payload)
            self._reset(number)
        elif kind == frames.SETTINGS:
            self._settle(number, flags, payload)
        elif kind == frames.PING:
            if number or len(payload) != 8:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a broken PING")
            if not flags & frames.ACK:
                self._transmit([frames.ping(payload, frames.ACK)])
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client pushes nothing")
        return None  # PRIORITY and GOAWAY ask for nothing, and kinds that are unknown are passed over (section 4.1)

    def _head_begins(self, number: int, flags: int, payload: bytes) -> tuple[Stream, bytes] | None:
        if not number & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client's streams have odd numbers")
        block = frames.unpadded(payload, flags)
        if flags & frames.PRIORITISED:
            if len(block) < 5:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "a head too short for its priority")
            block = block[5:]
        if flags & frames.END_HEADERS:
            return self._headed(number, flags, block)
        self._block = (number, flags, [block])
        return None

    def _head_goes_on(self, number: int, flags: int, payload: bytes) -> tuple[Stream, bytes] | None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first_flags, blocks = self._block
        blocks.append(payload)
        if sum(map(len, blocks)) > MAX_BLOCK_BYTES or not (payload or flags & frames.END_HEADERS):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "a head without end")
        if not flags & frames.END_HEADERS:
            return None
        self._block = None
        return self._headed(number, first_flags, b"".join(blocks))

    def _headed(self, number: int, flags: int, block: bytes) -> tuple[Stream, bytes] | None:
        head = self._heads.read(block)  # whatever comes of it: the table must follow
        last = bool(flags & frames.END_STREAM)
        if number <= self._last:
            stream = self.streams.get(number)
            if stream is None:
                return None
            if stream.over or not last:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a second head that ends nothing")
            return self._received(stream, b"", last=True)
        self._last = number
        if len(self.streams) >= self._limits.calls:
            self._transmit([frames.reset(number, frames.REFUSED_STREAM)])
            return None
        if head.malformed:
            self._transmit([frames.reset(number, frames.PROTOCOL_ERROR)])
            return None
        return self._open(number, head, last=last)

    def _open(self, number: int, head: Head, *, last: bool) -> tuple[Stream, bytes] | None:
        problem = "method" if head.method != b"POST" else ""
        if not head.content_type.startswith(b"application/grpc"):
            problem = problem or "content"
        if problem:
            self._out.http(number, _HTTP[problem], over=last)
            return None
        verb = self._verbs.get(head.path)
        stream = Stream(number, head, verb or _NOTHING, STREAM_WINDOW, self._out.stream_window)
        stream.over = last
        self.streams[number] = stream
        if verb is None:
            self._out.end(stream, UNIMPLEMENTED, "This server knows no such method.")
        elif head.too_large:
            self._out.end(stream, RESOURCE_EXHAUSTED, f"The call's metadata have more than {MAX_LIST_BYTES} bytes.")
        elif verb.opened is not None:
            try:
                verb.opened(stream)
            except Refusal as refusal:
                self._out.end(stream, refusal.status, refusal.sentence)
        return self._received(stream, b"", last=True) if last and not stream.ended else None

    def _widen(self, number: int, size: int) -> None:
        if not number:
            self._out.widen(size)
            self._out.pump_all(tuple(self.streams.values()))
            return
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of no stream")
            return
        stream.window += size
        if not size or stream.window > frames.LARGEST_WINDOW:
            self._forget(stream, frames.FLOW_CONTROL_ERROR)
        elif stream.outgoing:
            self._out.pump(stream)

    def _reset(self, number: int) -> None:
        if number > self._last or not number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "RST_STREAM of no stream")
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream, None)

    def _settle(self, number: int, flags: int, payload: bytes) -> None:
        if number or (flags & frames.ACK and payload):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "broken SETTINGS")
        self._settled = True
        if flags & frames.ACK:
            return
        for name, value in frames.read_settings(payload):
            self._out.settle(name, value, self.streams.values())
        self._transmit([frames.head(0, frames.SETTINGS, frames.ACK, 0)])
        self._out.pump_all(tuple(self.streams.values()))

    def answer(self, stream: Stream, parts: list[Part]) -> None:
        """The one answer of a call, and its end."""
        with self.lock:
            if not stream.ended:
                self._out.answer(stream, parts)

    def reply(self, stream: Stream, parts: list[Part]) -> bytes | None:
        """The answer to one message of a stream. Returns its next message, if it has come."""
        with self.lock:
            if stream.ended:
                return None
            self._out.reply(stream, parts)
            self._release(stream, stream.answering)
            stream.busy, stream.answering = False, 0
            try:
                found = self._turn(stream)
            except Refusal as refusal:
                self._out.end(stream, refusal.status, refusal.sentence)
                return None
            return found[1] if found is not None else None

    def refuse(self, stream: Stream, status: int, sentence: str) -> None:
        """End a call with a status that is not OK."""
        with self.lock:
            self._out.end(stream, status, sentence)

    def goodbye(self, code: int = frames.NO_ERROR, words: str = "") -> None:
        """Say that nothing more is taken, and why."""
        with self.lock:
            self._transmit([frames.goaway(self._last, code, words)])

    def ping(self) -> None:
        """Ask whether the client is there still."""
        with self.lock:
            self._transmit([frames.ping(b"hybridge")])

    def close(self) -> None:
        """The connection has ended: so has every call of it."""
        with self.lock:
            for stream in tuple(self.streams.values()):
                self._forget(stream, None)

    def _done(self, stream: Stream) -> None:
        stream.ended = True
        del self.streams[stream.number]
        self._release(stream, stream.reserved)
        if stream.verb.closed is not None:
            stream.verb.closed(stream)

    def _forget(self, stream: Stream, code: int | None) -> None:
        """Nobody listens: by the client's word, or by ours where ``code`` says why."""
        stream.outgoing.clear()
        stream.messages.clear()
        self._done(stream)
        stream.gone()
        if code is not None:
            self._transmit([frames.reset(stream.number, code)])


def _nobody(message: bytes, caller: object) -> list[Part]:
    raise AssertionError("a call of no verb is ended as it begins")


_NOTHING = Verb(_nobody)

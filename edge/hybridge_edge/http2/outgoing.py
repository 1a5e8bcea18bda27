"""What goes out on one connection: heads, messages as far as the client's windows allow, ends. RFC 9113, section 5.2.

Every method wants the connection's lock held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hybridge_edge.http2 import frames
from hybridge_edge.http2.frames import ConnectionFault
from hybridge_edge.http2.heads import TABLE_BYTES, AnswerHeads
from hybridge_edge.http2.stream import OK, PREFIX, Stream
from hybridge_edge.http2.verbs import Part

JOINED_BYTES = 64 * 1024
"""Up to here one copy is cheaper than many pieces."""
Transmit = Callable[[list[Part]], None]


class Outgoing:
    """The sending half.

    Args:
        transmit: takes bytes to send, in order; must not block. done: told of a stream whose end is sent.
    """

    def __init__(self, transmit: Transmit, done: Callable[[Stream], None]) -> None:
        self._transmit = transmit
        self._done = done
        self._heads = AnswerHeads()
        self._window = frames.DEFAULT_WINDOW
        self.stream_window = frames.DEFAULT_WINDOW
        """Of streams that the client opens from now on."""
        self._frame = frames.DEFAULT_FRAME

    def settle(self, name: int, value: int, streams: Iterable[Stream]) -> None:
        """One of the client's settings. Raises ConnectionFault where there is no such value."""
        if name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window too large")
            for stream in streams:
                stream.window += value - self.stream_window
            self.stream_window = value
        elif name == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME <= value <= frames.LARGEST_FRAME:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "an impossible size of frames")
            self._frame = value
        elif name == frames.HEADER_TABLE_SIZE and value < TABLE_BYTES:
            self._heads.without_table()

    def widen(self, size: int) -> None:
        """The client takes more on this connection. Raises ConnectionFault where it cannot mean it."""
        self._window += size
        if not size or self._window > frames.LARGEST_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a broken WINDOW_UPDATE")

    def http(self, number: int, status: int, *, over: bool) -> None:
        """Answer what is no gRPC; ``over``: the client has said all."""
        block = self._heads.http(status)
        self._transmit([_heading(block, frames.END_HEADERS | frames.END_STREAM, number) + _rest(number, over=over)])

    def answer(self, stream: Stream, parts: list[Part]) -> None:
        """The one answer of a call, and its end."""
        size = sum(map(len, parts))
        whole = size + PREFIX.size
        if whole > self._frame or whole > self._window or whole > stream.window or stream.begun:
            self._queue(stream, parts, size)
            self.end(stream, OK, "")
            return
        self._window -= whole
        number = stream.number
        sent = (
            _heading(self._heads.begin(), frames.END_HEADERS, number),
            frames.head(whole, frames.DATA, 0, number),
            PREFIX.pack(0, size),
            *parts,
            _heading(self._heads.end(), frames.END_HEADERS | frames.END_STREAM, number),
        )
        self._done(stream)
        self._transmit([b"".join(sent)])

    def reply(self, stream: Stream, parts: list[Part]) -> None:
        """One message of an answer that has more."""
        size = sum(map(len, parts))
        whole = size + PREFIX.size
        if whole > self._frame or whole > self._window or whole > stream.window or stream.outgoing:
            self._queue(stream, parts, size)
            self.pump(stream)
            return
        self._window -= whole
        stream.window -= whole
        data = frames.head(whole, frames.DATA, 0, stream.number)
        self._transmit([b"".join((self._begin(stream), data, PREFIX.pack(0, size), *parts))])

    def end(self, stream: Stream, status: int, sentence: str) -> None:
        """End a call behind what still waits of it."""
        if not stream.ended:
            stream.ending = (status, sentence)
            self.pump(stream)

    def pump_all(self, streams: Iterable[Stream]) -> None:
        """Windows have grown."""
        for stream in streams:
            if stream.outgoing:
                self.pump(stream)

    def pump(self, stream: Stream) -> None:
        """Send of what waits as much as the windows allow, and the end behind all of it."""
        made: list[Part] = [self._begin(stream)] if stream.outgoing and not stream.begun else []
        while stream.outgoing:
            piece = stream.outgoing[0]
            size = min(len(piece), self._frame, self._window, stream.window)
            if size <= 0:
                break
            made += (frames.head(size, frames.DATA, 0, stream.number), piece[:size])
            self._window -= size
            stream.window -= size
            if size == len(piece):
                stream.outgoing.popleft()
            else:
                stream.outgoing[0] = piece[size:]
        if not stream.outgoing and stream.ending is not None:
            made.append(self._trailers(stream, *stream.ending))
            self._done(stream)
        if made:
            self._transmit(made)

    def _begin(self, stream: Stream) -> bytes:
        """The head of an answer, once."""
        if stream.begun:
            return b""
        stream.begun = True
        return _heading(self._heads.begin(), frames.END_HEADERS, stream.number)

    def _trailers(self, stream: Stream, status: int, sentence: str) -> bytes:
        if status == OK:
            head, block = self._begin(stream), self._heads.end()
        else:
            head, block = b"", self._heads.refuse(status, sentence, begun=stream.begun)
        end = _heading(block, frames.END_HEADERS | frames.END_STREAM, stream.number)
        return head + end + _rest(stream.number, over=stream.over)

    def _queue(self, stream: Stream, parts: list[Part], size: int) -> None:
        """Large parts by themselves, the small ones between them together."""
        small: list[Part] = [PREFIX.pack(0, size)]
        for part in parts:
            if len(part) < JOINED_BYTES:
                small.append(part)
                continue
            if any(small):
                stream.outgoing.append(memoryview(b"".join(small)))
            stream.outgoing.append(memoryview(part))
            small = []
        if any(small):
            stream.outgoing.append(memoryview(b"".join(small)))


def _heading(block: bytes, flags: int, number: int) -> bytes:
    return frames.head(len(block), frames.HEADERS, flags, number) + block


def _rest(number: int, *, over: bool) -> bytes:
    """What the client would still say is not wanted (section 8.1)."""
    return b"" if over else frames.reset(number, frames.NO_ERROR)

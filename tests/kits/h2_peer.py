"""An independent HTTP/2 client, python-hyper's h2, with gRPC's five bytes by hand; and a server without a socket."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
import hpack

from hybridge_edge.http2 import frames
from hybridge_edge.http2.connection import Connection, Limits
from hybridge_edge.http2.stream import Stream
from hybridge_edge.http2.verbs import Caller, Part, Verb

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/t/Echo"),
    (":authority", "here"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def headers(path: str = "/t/Echo", *more: tuple[str, str], **replaced: str) -> list[tuple[str, str]]:
    changed = {f":{name}": value for name, value in replaced.items()} | {":path": path}
    return [(name, changed.get(name, value)) for name, value in HEADERS] + list(more)


def framed(message: bytes, packed: int = 0) -> bytes:
    return struct.pack(">BI", packed, len(message)) + message


def client() -> h2.connection.H2Connection:
    made = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    made.initiate_connection()
    return made


class Answers:
    """What came back, by stream."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.fields: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        self.goodbye: int | None = None

    def take(
        self, connection: h2.connection.H2Connection, events: Iterable[h2.events.Event], acknowledge: bool = True
    ) -> None:
        for event in events:
            number = getattr(event, "stream_id", 0)
            if isinstance(event, h2.events.DataReceived):
                self.data[number] = self.data.get(number, b"") + event.data
                if acknowledge:
                    connection.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.fields.setdefault(number, {}).update(dict(event.headers))
            elif isinstance(event, h2.events.StreamReset):
                self.reset[number] = event.error_code
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goodbye = event.error_code
            if isinstance(event, h2.events.StreamEnded):
                self.ended.add(number)

    def status(self, number: int) -> str:
        return self.fields[number].get("grpc-status", "")

    def messages(self, number: int) -> list[bytes]:
        data, found = self.data.get(number, b""), []
        while data:
            length = struct.unpack(">BI", data[:5])[1]
            found.append(data[5 : 5 + length])
            data = data[5 + length :]
        return found


LIMIT = 4 * 1024 * 1024


def echo(message: bytes, caller: Caller) -> list[Part]:
    return [message]


class Server:
    """A connection whose messages are answered at once, or when ``answer`` is called."""

    def __init__(self, calls: int = 16, limit: int = LIMIT, *, waits: bool = False) -> None:
        self.sent = bytearray()
        self.reserved = 0
        table = {b"/t/Echo": Verb(echo), b"/t/Stream": Verb(echo, streams=True)}
        self.connection = Connection(table, Limits(limit, calls), self._transmit, self._reserve, self._release)
        self.waiting: list[tuple[Stream, bytes]] = []
        self._waits = waits
        self.connection.greet()

    def _transmit(self, parts: list[Part]) -> None:
        for part in parts:
            self.sent += part

    def _reserve(self, stream: Stream, size: int) -> int:
        self.reserved += size
        return size

    def _release(self, stream: Stream, size: int) -> None:
        self.reserved -= size
        stream.reserved -= size

    def feed(self, data: bytes) -> bytes:
        self.connection.feed(data)
        while (found := self.connection.next()) is not None:
            self.waiting.append(found)
            if not self._waits:
                self.answer()
        return self.take()

    def answer(self) -> None:
        stream, message = self.waiting.pop(0)
        if not stream.verb.streams:
            self.connection.answer(stream, [message])
            return
        more: bytes | None = message
        while more is not None:
            more = self.connection.reply(stream, [more])

    def take(self) -> bytes:
        made = bytes(self.sent)
        self.sent.clear()
        return made


def exchange(server: Server, peer: object, answers: Answers, acknowledge: bool = True) -> None:
    """Until neither has anything to say."""
    said = server.take()
    while True:
        if said:
            answers.take(peer, peer.receive_data(said), acknowledge)
        asked = peer.data_to_send()
        if not asked and not said:
            return
        said = server.feed(asked) if asked else b""


def ask(
    server: Server, peer: object, answers: Answers, message: bytes, fields: list | None = None, **options: bool
) -> int:
    number = peer.get_next_available_stream_id()
    peer.send_headers(number, fields or headers())
    data = framed(message)
    while data:
        exchange(server, peer, answers)
        if number in answers.ended:  # refused already
            break
        size = min(len(data), peer.local_flow_control_window(number), peer.max_outbound_frame_size)
        peer.send_data(number, data[:size], end_stream=size == len(data))
        data = data[size:]
    exchange(server, peer, answers)
    return number


def raw(fields: list[tuple[str, str]], number: int = 1, flags: int = frames.END_HEADERS) -> bytes:
    block = hpack.Encoder().encode(fields)
    return frames.head(len(block), frames.HEADERS, flags, number) + block


START = frames.PREFACE + frames.settings({})
MESSAGE = framed(b"hello")
GOOD = raw(HEADERS) + frames.head(len(MESSAGE), frames.DATA, frames.END_STREAM, 1) + MESSAGE


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return frames.head(len(payload), kind, flags, stream) + payload

"""The wire format of Greengrass IPC: AWS event-stream messages.

A message is: total length (4 bytes), headers' length (4), CRC32 of these eight (4), headers, payload, CRC32 of all
before (4); integers are big-endian. A header is: length of its name (1), name, type (1), value.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridge_edge.contract.errors import InvalidDocument

PRELUDE_BYTES = 12
SMALLEST = 16
APPLICATION, APPLICATION_ERROR, PING, PING_RESPONSE, CONNECT, CONNECT_ACK = 0, 1, 2, 3, 4, 5
CONNECTION_ACCEPTED = 1
TERMINATE_STREAM = 2

Header = bool | int | bytes | str | uuid.UUID


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``headers`` holds those that are not type, flags or stream."""

    type: int
    stream: int = 0
    flags: int = 0
    headers: Mapping[str, Header] = field(default_factory=dict)
    payload: bytes = b""

    def encode(self) -> bytes:
        packed = b"".join(
            _pack(name, value)
            for name, value in (
                (":message-type", self.type),
                (":message-flags", self.flags),
                (":stream-id", self.stream),
                *self.headers.items(),
            )
        )
        total = SMALLEST + len(packed) + len(self.payload)
        prelude = struct.pack(">II", total, len(packed))
        body = prelude + struct.pack(">I", zlib.crc32(prelude)) + packed + self.payload
        return body + struct.pack(">I", zlib.crc32(body))


def length(prelude: bytes) -> int:
    """The whole message's length in bytes, from its first 12. Raises InvalidDocument where they are damaged."""
    total, headers, check = struct.unpack(">III", prelude)
    if zlib.crc32(prelude[:8]) != check or total < SMALLEST + headers:
        raise InvalidDocument("An event-stream prelude is damaged.")
    return int(total)


def decode(data: bytes) -> Message:
    """Read one whole message. Raises InvalidDocument where it is damaged."""
    if len(data) < SMALLEST or length(data[:PRELUDE_BYTES]) != len(data):
        raise InvalidDocument("An event-stream message is cut short.")
    if struct.unpack(">I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise InvalidDocument("An event-stream message is damaged.")
    end = PRELUDE_BYTES + struct.unpack(">I", data[4:8])[0]
    try:
        headers = _headers(data[PRELUDE_BYTES:end])
    except (struct.error, IndexError, UnicodeDecodeError, ValueError):
        raise InvalidDocument("An event-stream header is damaged.") from None
    numbers = []
    for name in (":message-type", ":stream-id", ":message-flags"):
        value = headers.pop(name, 0)
        if not isinstance(value, int):
            raise InvalidDocument(f"The event-stream header {name} is not a number.")
        numbers.append(value)
    return Message(numbers[0], numbers[1], numbers[2], headers, data[end:-4])


def _pack(name: str, value: Header) -> bytes:
    key = name.encode()
    start = bytes([len(key)]) + key
    if isinstance(value, bool):
        return start + (b"\x00" if value else b"\x01")
    if isinstance(value, int):
        return start + b"\x04" + struct.pack(">i", value)
    if isinstance(value, uuid.UUID):
        return start + b"\x09" + value.bytes
    raw, kind = (value.encode(), b"\x07") if isinstance(value, str) else (value, b"\x06")
    return start + kind + struct.pack(">H", len(raw)) + raw


_NUMBERS = {2: ">b", 3: ">h", 4: ">i", 5: ">q", 8: ">q"}


def _headers(data: bytes) -> dict[str, Header]:
    found: dict[str, Header] = {}
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        name, kind = data[at + 1 : end].decode(), data[end]
        at = end + 1
        if kind in (0, 1):
            found[name] = kind == 0
        elif kind in _NUMBERS:
            (found[name],) = struct.unpack_from(_NUMBERS[kind], data, at)
            at += struct.calcsize(_NUMBERS[kind])
        elif kind in (6, 7):
            (size,) = struct.unpack_from(">H", data, at)
            raw = data[at + 2 : at + 2 + size]
            if len(raw) != size:
                raise ValueError(name)
            found[name] = raw.decode() if kind == 7 else raw
            at += 2 + size
        elif kind == 9:
            found[name] = uuid.UUID(bytes=data[at : at + 16])
            at += 16
        else:
            raise ValueError(name)
    return found

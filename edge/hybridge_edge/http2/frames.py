"""HTTP/2 frames: nine bytes and a payload. RFC 9113, section 4 and 6."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every client says first (section 3.4)."""
HEADER = 9
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME = 16_384
LARGEST_WINDOW = LARGEST_STREAM = 2**31 - 1
LARGEST_FRAME = 2**24 - 1

_HEAD = struct.Struct(">BHBBI")
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")
_ERROR = struct.Struct(">II")


class ConnectionFault(Exception):
    """What a client did that ends its connection: an error code and words for the log."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of ``length`` bytes."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def read_head(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Length, kind, flags and stream of the frame that begins at ``at``."""
    high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
    return high << 16 | low, kind, flags, stream & LARGEST_WINDOW


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(_SETTING.pack(*one) for one in values.items())
    return head(len(payload), SETTINGS, 0, 0) + payload


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Raises ConnectionFault where it is no list of settings."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of a broken length")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, size: int) -> bytes:
    return head(4, WINDOW_UPDATE, 0, stream) + _NUMBER.pack(size)


def reset(stream: int, code: int) -> bytes:
    return head(4, RST_STREAM, 0, stream) + _NUMBER.pack(code)


def ping(payload: bytes, flags: int = 0) -> bytes:
    return head(8, PING, flags, 0) + payload


def goaway(last_stream: int, code: int = NO_ERROR, words: str = "") -> bytes:
    """A server's word that it takes no calls beyond ``last_stream`` on this connection (6.8).

    LARGEST_STREAM says so before the client has heard of it: what it has begun meanwhile is answered all the same.
    """
    payload = _ERROR.pack(last_stream, code) + words.encode()[:200]
    return head(len(payload), GOAWAY, 0, 0) + payload


def number(payload: bytes) -> int:
    """The one number of a WINDOW_UPDATE or RST_STREAM. Raises ConnectionFault where it is none."""
    if len(payload) != _NUMBER.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a frame of a broken length")
    return int(_NUMBER.unpack(payload)[0])


def unpadded(payload: bytes, flags: int) -> bytes:
    """Without the padding of a DATA or HEADERS frame. Raises ConnectionFault."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]

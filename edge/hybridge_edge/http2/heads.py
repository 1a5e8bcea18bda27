"""Heads of requests as HPACK (RFC 7541) writes them, and heads of answers; what gRPC puts into either.

A client that asks the same again sends the same few bytes again, for all of it is in the connection's table by then:
what they mean is kept as long as the table does not change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import hpack
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from hybridge_edge.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

MAX_LIST_BYTES = 8 * 1024
"""Of a request's head as RFC 9113 counts it (names, values, 32 bytes each); more is told RESOURCE_EXHAUSTED."""
MAX_DECODED_BYTES = 64 * 1024
"""From here on it is an attack on memory, and the connection ends."""
TABLE_BYTES = 4096
MAX_KNOWN = 64
"""Heads that are kept for one connection."""
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TRUE_NAMES = {b":method": "method", b":path": "path", b"content-type": "content_type"}


class Head(NamedTuple):
    """A request's head, as far as it matters here.

    Attributes:
        timeout_s: None where there is none. encoding: of its messages. too_large: over MAX_LIST_BYTES.
        malformed: it breaks the rules for heads of requests (section 8.2 and 8.3), which ends its stream.
    """

    method: bytes
    path: bytes
    content_type: bytes
    encoding: bytes
    timeout_s: float | None
    too_large: bool
    malformed: bool


class Heads:
    """What one connection's heads mean."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_DECODED_BYTES)
        self._decoder.max_allowed_table_size = TABLE_BYTES
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Read a block; in the order in which blocks came. Raises ConnectionFault where it is none."""
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        before = _state(table)
        try:
            found = _read(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a head of more than 64 KiB") from None
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(COMPRESSION_ERROR, f"a head that cannot be read: {type(error).__name__}") from None
        if _state(table) != before or len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if _state(table) == before:
            self._known[block] = found
        return found


def _state(table: HeaderTable) -> tuple[object, ...]:
    """Changes whenever the table does: entries come in at its front, and leave only for others or a new size."""
    entries = table.dynamic_entries
    return (id(entries[0]) if entries else 0, len(entries), table.maxsize)


def _read(fields: Iterable[tuple[bytes, bytes]]) -> Head:
    found = {"method": b"", "path": b"", "content_type": b""}
    timeout: float | None = None
    encoding, size, malformed, regular, seen = b"identity", 0, False, False, set()
    for name, value in fields:
        size += len(name) + len(value) + 32
        if name[:1] == b":":
            malformed |= regular or name in seen or name not in (b":method", b":path", b":scheme", b":authority")
            seen.add(name)
        else:
            regular = True
            malformed |= name != name.lower() or name == b"connection"
        if name in _TRUE_NAMES:
            found[_TRUE_NAMES[name]] = value
        elif name == b"grpc-timeout":
            matched = _TIMEOUT.fullmatch(value)
            if matched is None:
                malformed = True
            else:
                timeout = int(matched[1]) * _SECONDS[matched[2]]
        elif name == b"grpc-encoding":
            encoding = value
    malformed |= not {b":method", b":path", b":scheme"} <= seen
    return Head(**found, encoding=encoding, timeout_s=timeout, too_large=size > MAX_LIST_BYTES, malformed=malformed)


_STATUS_200 = b"\x88"
_GRPC = b"application/grpc"
_TO_TABLE, _PLAIN = 0x40, 0x00
_EMPTY_TABLE = b"\x20"


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that goes into no table; texts are sent as they are."""
    return bytes((_PLAIN,)) + _text(name) + _text(value)


def _text(value: bytes) -> bytes:
    return _integer(len(value), 7, 0) + value


def _integer(value: int, bits: int, first: int) -> bytes:
    """RFC 7541, section 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    made = bytearray((first | most,))
    value -= most
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


_CONTENT_TYPE, _STATUS = 31, 8  # names in the static table (appendix A)
_KIND = _integer(_CONTENT_TYPE, 4, _PLAIN) + _text(_GRPC)
_KIND_TO_TABLE = _integer(_CONTENT_TYPE, 6, _TO_TABLE) + _text(_GRPC)
_OK_TO_TABLE = bytes((_TO_TABLE,)) + _text(b"grpc-status") + _text(b"0")
_OK = _literal(b"grpc-status", b"0")
_NEWEST, _SECOND = b"\xbe", b"\xbf"  # entries 62 and 63: what was put into the table last, and before that


class AnswerHeads:
    """Heads and trailers of one connection's answers, in the order in which they are sent.

    Two fields are put into the client's table, always the kind of content first, so that later answers name them by a
    number.
    """

    def __init__(self) -> None:
        self._kind_there = self._ok_there = False
        self._table = True
        self._prefix = b""

    def without_table(self) -> None:
        """The client wants a smaller table: use none of it."""
        if self._table:
            self._table = False
            self._prefix = _EMPTY_TABLE

    def begin(self) -> bytes:
        """The head of an answer."""
        return self._opened() + _STATUS_200 + self._kind()

    def end(self) -> bytes:
        """The trailers of an answer that is good."""
        opened = self._opened()
        if not self._table:
            return opened + _OK
        if self._ok_there:
            return _NEWEST
        self._ok_there = True
        return _OK_TO_TABLE

    def refuse(self, status: int, sentence: str, *, begun: bool) -> bytes:
        """The trailers of one that is not; head and trailers in one where nothing was sent yet."""
        opened = self._opened() + (b"" if begun else _STATUS_200 + self._kind())
        return opened + _literal(b"grpc-status", b"%d" % status) + _literal(b"grpc-message", percent(sentence))

    def http(self, status: int) -> bytes:
        """An answer to what is no gRPC."""
        return self._opened() + _integer(_STATUS, 4, _PLAIN) + _text(b"%d" % status)

    def _opened(self) -> bytes:
        prefix, self._prefix = self._prefix, b""
        return prefix

    def _kind(self) -> bytes:
        if not self._table:
            return _KIND
        if self._ok_there:
            return _SECOND
        if self._kind_there:
            return _NEWEST
        self._kind_there = True
        return _KIND_TO_TABLE


def percent(sentence: str) -> bytes:
    """As gRPC writes its messages: printable ASCII but for the percent sign, all else by its bytes."""
    return b"".join(
        bytes((one,)) if 0x20 <= one <= 0x7E and one != 0x25 else b"%%%02X" % one for one in sentence.encode()
    )

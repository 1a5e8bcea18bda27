"""Protobuf's wire format, read strictly and without copying (protobuf.dev, "Encoding").

Ours and not generated stubs, for three reasons. It copies no weights: a package of 500 MB would otherwise stand in the
server's memory twice. It can stop: fields are counted as they are met. And it is stricter than the runtime's parser, so
that a file cannot mean one thing here and another there: a field that may stand once stands once (protobuf would merge
them), a tag is 32 bits (protobuf cuts off the rest), a known field has its own wire type, and groups are refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

MAX_FIELDS = 4_000_000
"""In one file; what stands packed, as every exporter writes numbers, counts once."""
MAX_NUMBERS = 32
"""In one list of numbers: dimensions."""
_BREATH = 256
_MAX_TAG = 2**32 - 1
_MAX_TAG_BYTES = 5
_MASK_64 = 2**64 - 1
_MAX_SHIFT = 70
_SHOWN_BYTES = 320
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

Field = tuple[int, int, "int | memoryview"]
"""Number, wire type, and an int or bytes."""


class Malformed(Exception):
    """The bytes are no such file, or one beyond the limits; the message is half a sentence."""


class WireReader:
    """Reads messages, counting the fields of a whole file."""

    def __init__(self) -> None:
        self._fields_left = MAX_FIELDS

    def fields(self, data: memoryview, once: frozenset[int]) -> Iterator[Field]:
        """The fields of one message; ``once``: those that may not stand twice."""
        position, seen = 0, set()
        while position < len(data):
            start = position
            tag, position = _varint(data, position)
            field, wire = tag >> 3, tag & 7
            if tag > _MAX_TAG or position - start > _MAX_TAG_BYTES or field == 0:
                raise Malformed("is not an ONNX file: it holds a tag that is none")
            self._fields_left -= 1
            if self._fields_left % _BREATH == 0:
                time.sleep(0)  # requests wait for the interpreter meanwhile, and would wait for milliseconds
            if self._fields_left < 0:
                raise Malformed(f"holds more than {MAX_FIELDS} fields")
            if field in once:
                if field in seen:
                    raise Malformed(f"holds field {field} twice where one is allowed")
                seen.add(field)
            if wire == _VARINT:
                found, position = _varint(data, position)
                yield field, wire, found
                continue
            if wire == _BYTES:
                size, position = _varint(data, position)
            elif wire in _FIXED_BYTES:
                size = _FIXED_BYTES[wire]
            else:
                raise Malformed(f"is not an ONNX file: it holds wire type {wire}")
            if size > len(data) - position:
                raise Malformed("is not an ONNX file, or cut off")
            yield field, wire, data[position : position + size]
            position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift >= _MAX_SHIFT:
            raise Malformed("is not an ONNX file, or cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK_64, position
        shift += 7


def signed(value: int) -> int:
    """A varint as int64 has it."""
    return value - 2**64 if value >= 2**63 else value


def number(wire: int, value: int | memoryview) -> int:
    """A field that is a varint."""
    if wire != _VARINT or not isinstance(value, int):
        raise Malformed("is not an ONNX file: a number is of another kind")
    return value


def numbers(wire: int, value: int | memoryview, into: list[int]) -> None:
    """Repeated numbers, one or packed."""
    if isinstance(value, int):
        into.append(signed(value))
    elif wire == _BYTES:
        position = 0
        while position < len(value) and len(into) <= MAX_NUMBERS:
            found, position = _varint(value, position)
            into.append(signed(found))
    else:
        raise Malformed("is not an ONNX file: a number is of another kind")
    if len(into) > MAX_NUMBERS:
        raise Malformed(f"holds a tensor of more than {MAX_NUMBERS} dimensions")


def message(wire: int, value: int | memoryview) -> memoryview:
    """A field that is bytes: a message inside, a string, packed numbers."""
    if wire != _BYTES or isinstance(value, int):
        raise Malformed("is not an ONNX file: a message is of another kind")
    return value


def text(wire: int, value: int | memoryview) -> str:
    """A name, cut at what people can read; a cut one equals nothing that anybody looks for."""
    data = message(wire, value)
    found = bytes(data[:_SHOWN_BYTES]).decode("utf-8", "replace")
    return found if len(data) <= _SHOWN_BYTES else found + "..."

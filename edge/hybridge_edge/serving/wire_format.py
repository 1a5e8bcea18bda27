"""Just enough of protobuf's wire format to take a message apart at its seams and to put one together from parts.

Source: protobuf.dev/programming-guides/encoding. A message is a sequence of fields, a field a tag and, for text, bytes
and messages, a length and that many bytes. Fields may be written in any order and in parts, so a message may be joined
from bytes that were made once and bytes of one answer; whoever reads it cannot tell.
"""

from __future__ import annotations

_MORE = 0x80
_MAX_LENGTH_BYTES = 5
LENGTH_DELIMITED = 2


def varint(number: int) -> bytes:
    """A number from 0 to 2**64 - 1 as the format writes it: seven bits a byte, the lowest first."""
    if number < _MORE:
        return _SMALL[number]
    if number < _MORE * _MORE:
        return bytes((number & 0x7F | _MORE, number >> 7))
    made = bytearray()
    while number >= _MORE:
        made.append(number & 0x7F | _MORE)
        number >>= 7
    made.append(number)
    return bytes(made)


_SMALL = tuple(bytes((number,)) for number in range(_MORE))


def field(number: int, content: bytes) -> bytes:
    """A field of text, bytes or a message; ``number`` is below 16, so that its tag is one byte."""
    size = len(content)
    if size < _MORE:
        return b"%c%c%b" % (number << 3 | LENGTH_DELIMITED, size, content)
    return b"%c%b%b" % (number << 3 | LENGTH_DELIMITED, varint(size), content)


def take_apart(message: bytes, alone: int, repeated: int) -> tuple[bytes, bytes, list[bytes]] | None:
    """Separate two fields of a message from all others.

    Args:
        alone: number of a field that stands there once. repeated: number of a field that counts each time.

    Returns:
        The message without those, the content of ``alone`` (empty where absent), the contents of ``repeated``. None
        where the message has other fields than length-delimited ones numbered below 16, or ``alone`` more than once, or
        is cut off: whoever wants to know what is wrong with it must read it whole.
    """
    rest: list[bytes] = []
    content: bytes | None = None
    contents: list[bytes] = []
    alone_tag, repeated_tag = alone << 3 | LENGTH_DELIMITED, repeated << 3 | LENGTH_DELIMITED
    position, end = 0, len(message)
    try:
        while position < end:
            tag, length, start = message[position], message[position + 1], position + 2
            if tag & 0x87 != LENGTH_DELIMITED:
                return None
            if length >= _MORE:
                more = message[start]
                if more < _MORE:
                    length, start = length & 0x7F | more << 7, start + 1
                else:
                    length, start = _long_length(message, position + 1)
            stop = start + length
            if stop > end:
                return None
            if tag == repeated_tag:
                contents.append(message[start:stop])
            elif tag == alone_tag:
                if content is not None:
                    return None
                content = message[start:stop]
            else:
                rest.append(message[position:stop])
            position = stop
    except IndexError:
        return None
    return b"".join(rest), content or b"", contents


def _long_length(message: bytes, position: int) -> tuple[int, int]:
    """A length of several bytes, and where its content begins. Raises IndexError where it has no end."""
    length = 0
    for place in range(_MAX_LENGTH_BYTES):
        byte = message[position + place]
        length |= (byte & 0x7F) << 7 * place
        if byte < _MORE:
            return length, position + place + 1
    raise IndexError

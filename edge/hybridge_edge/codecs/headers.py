"""What a picture says of itself, read from its first bytes before any library sees it.

JPEG: ITU-T T.81, annex B. PNG: W3C Portable Network Graphics, third edition, 5 and 11.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_SEGMENTS = 256
"""Of a JPEG before its frame: metadata a camera writes are a dozen."""
MAX_SCANS = 32
"""Of a JPEG. A progressive one has about ten; each costs a pass over the whole picture."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SCAN = b"\xff\xda"
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive, with Huffman codes (T.81, table B.1)."""
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_PNG_COLOURS = frozenset({0, 2, 3})
"""Grey, RGB, palette; the two others have transparency."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a picture, pixels."""

    width: int
    height: int


class NotSuch(Exception):
    """Why the bytes are not what they should be: the end of a sentence that begins with what they are."""


def png(data: bytes) -> Size:
    """The size of a PNG of 8 bits a channel at most and without transparency. Raises NotSuch."""
    if data[:8] != _PNG or data[12:16] != b"IHDR" or len(data) < 33:
        raise NotSuch("is no PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if depth > 8:
        raise NotSuch(f"has {depth} bits a channel, and 8 are decoded")
    if colour not in _PNG_COLOURS:
        raise NotSuch("has transparency, which nothing here says how to take away")
    return _size(width, height)


def jpeg(data: bytes) -> Size:
    """The size of a JPEG of one or three channels of 8 bits. Raises NotSuch."""
    if data[:2] != _JPEG:
        raise NotSuch("is no JPEG")
    position = 2
    for _ in range(MAX_SEGMENTS):
        while data[position : position + 2] == b"\xff\xff":  # fill bytes
            position += 1
        if position + 4 > len(data) or data[position] != 0xFF:
            raise NotSuch("is cut off or damaged before its frame")
        marker = data[position + 1]
        if marker in _STANDALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _FRAMES:
            return _frame(data, position + 4)
        if marker in _OTHER_FRAMES:
            raise NotSuch("is of a kind of JPEG that is not decoded: use baseline or progressive with Huffman codes")
        position += 2 + max(length, 2)
    raise NotSuch(f"has more than {MAX_SEGMENTS} segments before its frame")


def _frame(data: bytes, position: int) -> Size:
    if position + 6 > len(data):
        raise NotSuch("is cut off in its frame")
    depth, height, width, channels = struct.unpack_from(">BHHB", data, position)
    if depth != 8:
        raise NotSuch(f"has {depth} bits a channel, and 8 are decoded")
    if channels not in (1, 3):
        raise NotSuch(f"has {channels} channels, and 1 or 3 are decoded")
    if data.count(_SCAN) > MAX_SCANS:
        raise NotSuch(f"has more than {MAX_SCANS} scans")
    return _size(width, height)


def _size(width: int, height: int) -> Size:
    if not width or not height:
        raise NotSuch("has no pixels")
    return Size(width, height)

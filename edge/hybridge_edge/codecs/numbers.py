"""Plain numbers as bytes: 16-bit samples of sound, and any other type."""

from __future__ import annotations

import numpy

from hybridge_edge.arrays import NUMPY_TYPES, Array
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import InvalidInput


def library() -> str:
    """numpy's name and version."""
    return f"numpy {numpy.__version__}"


def check(codec: Codec, data: bytes) -> None:
    """A row has exactly as many bytes as its shape needs. Raises InvalidInput."""
    if len(data) != codec.encoded_bytes:
        raise InvalidInput(
            f"Input {codec.input!r} has {len(data)} bytes.",
            f"Send {codec.encoded_bytes} bytes: {codec.value_type}, little-endian, "
            f"of shape {list(codec.decoded.item_shape)}.",
        )


def values(codec: Codec, data: bytes) -> Array:
    """The numbers in the codec's item shape; ``data`` has passed ``check``."""
    if codec.value_type == "BOOL" and data.strip(b"\0\1"):
        raise InvalidInput(f"Input {codec.input!r} has a byte that is neither 0 nor 1.", "Send 0 or 1 for each.")
    found: Array = numpy.frombuffer(data, NUMPY_TYPES[codec.value_type]).reshape(codec.decoded.item_shape)
    return found

"""Between one tensor of a message and numpy: every datatype of the protocol, raw and typed.

Raw, a tensor is its elements' bytes, little-endian and row-major; BYTES are written as each element's length in four
little-endian bytes, then the element. Typed, it is the one list of InferTensorContents that holds its datatype.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy

from hybridge_edge.arrays import DATATYPES, NUMPY_TYPES
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.tensors import BYTES, ITEM_BYTES, MAX_DIMENSIONS, MAX_ELEMENTS
from hybridge_edge.engine import Array

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""Of any message, whatever a model would like: requests are held in memory whole."""
MAX_TEXTS = 65_536
"""Elements of one BYTES tensor: each costs Python some 40 bytes beside its own."""
MAX_TEXT_BYTES = 1024 * 1024
"""Of one element of BYTES."""
SHOWN = 80
"""Characters of a stranger's name that an error repeats."""
TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""The list that holds a datatype; FP16 has none."""
_WIDE = {"int_contents": numpy.dtype("<i4"), "uint_contents": numpy.dtype("<u4")}
_BOOL = "BOOL"
_LENGTH = struct.Struct("<I")
_VIEWED_BYTES = 64 * 1024
Part = Any
"""bytes, or a memoryview of bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a tensor's elements must be.

    Attributes:
        name: at most SHOWN characters of it, for errors. elements: the product of ``shape``.
        size: bytes of all elements in raw form, -1 for BYTES.
    """

    name: str
    datatype: str
    dtype: numpy.dtype[Any]
    shape: tuple[int, ...]
    elements: int
    size: int


def layout(name: str, datatype: str, dimensions: Sequence[int]) -> Layout:
    """The layout that a message's words ask for. Raises InvalidInput where there is none such."""
    name = name[:SHOWN]
    dtype = NUMPY_TYPES.get(datatype)
    if dtype is None:
        known = f"Use one of {', '.join(NUMPY_TYPES)}."
        if datatype == "BF16":
            raise InvalidInput(f"Tensor {name!r} is of BF16, and numpy has no such type to compute with.", known)
        raise InvalidInput(f"Tensor {name!r} has the datatype {datatype[:20]!r}.", known)
    if len(dimensions) > MAX_DIMENSIONS:
        raise InvalidInput(f"Tensor {name!r} has an impossible shape.", f"Send at most {MAX_DIMENSIONS} dimensions.")
    shape = tuple(dimensions)
    # numpy multiplies dimensions beside a 0 too, so the bound holds for the others' product.
    if any(size < 0 for size in shape) or prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise InvalidInput(
            f"Tensor {name!r} has an impossible shape.",
            f"Send dimensions from 0 whose product is at most {MAX_ELEMENTS}.",
        )
    elements = prod(shape)
    if datatype == BYTES and elements > MAX_TEXTS:
        raise InvalidInput(f"Tensor {name!r} has {elements} elements of BYTES.", f"Send at most {MAX_TEXTS}.")
    return Layout(name, datatype, dtype, shape, elements, -1 if datatype == BYTES else elements * ITEM_BYTES[datatype])


def from_raw(wanted: Layout, raw: bytes) -> Array:
    """A raw tensor, a view of ``raw`` where its datatype has a fixed size. Raises InvalidInput."""
    if wanted.size < 0:
        return _texts(wanted, _split(wanted, raw))
    if len(raw) != wanted.size:
        raise InvalidInput(
            f"Tensor {wanted.name!r} of {wanted.datatype} {list(wanted.shape)} needs {wanted.size} bytes; "
            f"{len(raw)} came."
        )
    if wanted.datatype == _BOOL and raw.strip(b"\0\1"):
        raise InvalidInput(
            f"Tensor {wanted.name!r} of BOOL has a byte that is neither 0 nor 1.", "Send 0 or 1 for each."
        )
    array: Array = numpy.ndarray(wanted.shape, wanted.dtype, raw)
    return array


def from_typed(wanted: Layout, contents: Any) -> Array:
    """A typed tensor: ``contents`` is its InferTensorContents. Raises InvalidInput."""
    field = TYPED.get(wanted.datatype)
    if field is None:
        raise InvalidInput(
            f"Tensor {wanted.name!r} is of {wanted.datatype}, which the protocol sends raw only.", "Send it raw."
        )
    other = next((found.name for found, _ in contents.ListFields() if found.name != field), None)
    if other is not None:
        raise InvalidInput(f"Tensor {wanted.name!r} of {wanted.datatype} fills {other}.", f"Fill {field}.")
    values = getattr(contents, field)
    if len(values) != wanted.elements:
        raise InvalidInput(
            f"Tensor {wanted.name!r} of shape {list(wanted.shape)} needs {wanted.elements} elements; "
            f"{len(values)} came."
        )
    if wanted.size < 0:
        for value in values:
            _check_text(wanted, len(value))
        return _texts(wanted, list(values))
    # Two lists hold types that are narrower than their elements. numpy 1 would cut what does not fit without a word.
    sent = numpy.fromiter(values, _WIDE.get(field, wanted.dtype), wanted.elements)
    array: Array = sent.astype(wanted.dtype, copy=False)
    if field in _WIDE and not numpy.array_equal(array, sent):
        raise InvalidInput(f"Tensor {wanted.name!r} has an element that {wanted.datatype} cannot hold.")
    return array.reshape(wanted.shape)


def in_order(inline: Sequence[Part], elsewhere: Mapping[int, Part]) -> list[Part]:
    """All raw contents of a message: the ones it has, and between them those that came another way, by index.

    What is placed beyond the last tensor stays out, and its number is then wrong.
    """
    own = iter(inline)
    return [elsewhere[at] if at in elsewhere else next(own, b"") for at in range(len(inline) + len(elsewhere))]


def to_raw(array: Array) -> bytes:
    """Raw form of an array of one of NUMPY_TYPES; elements of an object array are bytes."""
    if not array.dtype.hasobject:
        return array.tobytes()
    parts: list[bytes] = []
    for element in array.flat:
        parts += (_LENGTH.pack(len(element)), element)
    return b"".join(parts)


def raw_part(array: Array) -> Part:
    """The same, to be joined with other parts of a message: a large tensor's bytes are copied there and only there."""
    if array.nbytes < _VIEWED_BYTES or array.dtype.hasobject:
        return to_raw(array)
    return numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8).data


def named(name: str, array: Array) -> tuple[str, Array]:
    """The datatype of a client's array, and the array in that type; text becomes BYTES.

    Raises:
        InvalidInput: the protocol has no name for its type.
    """
    if array.dtype.kind in "OSU":
        return BYTES, _of_texts(name, array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    datatype = DATATYPES.get(little.dtype)
    if datatype is None:
        raise InvalidInput(f"Input {name!r} has the type {array.dtype}.", f"Use one of {', '.join(NUMPY_TYPES)}.")
    return datatype, little


def _of_texts(name: str, array: Array) -> Array:
    made = numpy.empty(array.size, object)
    for place, element in enumerate(array.flat):
        made[place] = element.encode() if isinstance(element, str) else element
        if not isinstance(made[place], bytes):
            raise InvalidInput(f"Input {name!r} holds a {type(element).__name__}.", "Use bytes or text.")
    return made.reshape(array.shape)


def _split(wanted: Layout, raw: bytes) -> list[bytes]:
    """The elements of raw BYTES: exactly as many as the shape says, exactly to the end."""
    found: list[bytes] = []
    position, end = 0, len(raw)
    while position < end and len(found) < wanted.elements:
        if end - position < _LENGTH.size:
            break
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        _check_text(wanted, length)
        if length > end - position:
            raise InvalidInput(
                f"Tensor {wanted.name!r} has an element of {length} bytes of which {end - position} came.",
                "Put each element's length before it, as four little-endian bytes.",
            )
        found.append(raw[position : position + length])
        position += length
    if len(found) != wanted.elements or position != end:
        raise InvalidInput(
            f"Tensor {wanted.name!r} of BYTES {list(wanted.shape)} needs {wanted.elements} elements; its raw contents "
            f"hold {'more' if len(found) == wanted.elements else len(found)}.",
            "Put each element's length before it, as four little-endian bytes.",
        )
    return found


def _check_text(wanted: Layout, length: int) -> None:
    if length > MAX_TEXT_BYTES:
        raise InvalidInput(
            f"Tensor {wanted.name!r} has an element of {length} bytes.", f"Send at most {MAX_TEXT_BYTES} bytes each."
        )


def _texts(wanted: Layout, elements: list[bytes]) -> Array:
    made = numpy.empty(wanted.elements, object)
    made[:] = elements
    return made.reshape(wanted.shape)

"""Between numpy arrays and the contract's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.tensors import BYTES, Tensor

Array = npt.NDArray[np.generic]

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype("O"),
}
"""Datatypes of the Open Inference Protocol as numpy has them, little-endian as on the wire; BYTES are bytes objects."""
DATATYPES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in NUMPY_TYPES.items()}


def to_tensor(name: str, array: Array) -> Tensor:
    """The tensor of ``array``, any shape, its bytes copied. Raises InvalidDocument for a dtype without a datatype."""
    dtype = array.dtype.newbyteorder("<")
    if dtype.hasobject:
        raise InvalidDocument(f"Tensor {name[:80]!r} is of BYTES, which no sample holds.")
    if dtype not in DATATYPES:
        raise InvalidDocument(f"Tensor {name[:80]!r} has numpy type {array.dtype}, which the protocol has not.")
    little = np.ascontiguousarray(array, dtype=dtype)
    return Tensor(name, DATATYPES[dtype], tuple(array.shape), little.tobytes())


def to_array(tensor: Tensor) -> Array:
    """A read-only view of the tensor's bytes as an array of its shape and type."""
    array: Array = np.frombuffer(tensor.data, NUMPY_TYPES[tensor.datatype]).reshape(tensor.shape)
    return array


def from_file(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array as read from a .npy file, its fixed-width byte strings as BYTES.

    Without pickle, numpy writes byte strings only so; an element of kind S that ends in NUL comes back without it.
    Elements of kind V are whole.
    """
    if array.dtype.kind == "V" and array.dtype.names is None:
        made = np.empty(array.size, object)
        made[:] = [element.tobytes() for element in array.ravel()]
        return made.reshape(array.shape)
    return array.astype(object) if array.dtype.kind == "S" else array


def of_bytes(elements: Sequence[bytes]) -> Array:
    """Encodings as an input of BYTES takes them: (rows, 1), an object a row."""
    made = np.empty((len(elements), 1), object)
    made[:, 0] = elements
    return made


def held_bytes(array: npt.NDArray[Any]) -> int:
    """Memory that an array keeps: of BYTES its elements', which ``nbytes`` counts as pointers."""
    return sum(map(len, array.ravel().tolist())) if array.dtype.hasobject else array.nbytes


def for_file(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array as a .npy file without pickle can hold it: BYTES of equal length as kind V, which keeps every byte, of
    other lengths as kind S, which drops NULs at an element's end. Others stay as they are. See ``from_file``."""
    if not array.dtype.hasobject:
        return array
    elements = array.ravel().tolist()
    sizes = {len(element) for element in elements}
    if len(sizes) == 1 and sizes != {0}:
        whole: npt.NDArray[Any] = np.frombuffer(b"".join(elements), f"V{sizes.pop()}").reshape(array.shape)
        return whole
    return np.array(elements, "S").reshape(array.shape)

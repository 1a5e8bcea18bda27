"""Tensors as the contract sees them: a name, a datatype of the Open Inference Protocol, a shape, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument

ITEM_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes per element. BYTES has no fixed size, and numpy has no type for BF16."""
BYTES = "BYTES"
"""Elements of any length. A signature may have them; a sample or a window, whose bytes are plain arrays, may not."""
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 28


def datatype(text: str) -> str:
    """Return ``text`` if it is a datatype of the Open Inference Protocol v2 whose elements have a fixed size."""
    if text not in ITEM_BYTES:
        raise InvalidDocument(f"{text[:20]!r} is not a supported datatype.", f"Use one of {', '.join(ITEM_BYTES)}.")
    return text


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a signature.

    Attributes:
        shape: dimensions; -1 stands for any size and is allowed only first, as the batch.
        unit: what the numbers mean, such as "g" or "rad/s"; for people.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        if self.datatype != BYTES:
            datatype(self.datatype)
        fixed = self.shape[1:] if self.shape[:1] == (-1,) else self.shape
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or any(size < 1 for size in fixed):
            raise InvalidDocument(
                f"Tensor {self.name!r} has shape {list(self.shape)}.",
                f"Write 1 to {MAX_DIMENSIONS} positive dimensions; only the first may be -1, the batch.",
            )
        if prod(fixed) > MAX_ELEMENTS:
            raise InvalidDocument(f"Tensor {self.name!r} has more than {MAX_ELEMENTS} elements.")
        if not 1 <= len(self.name) <= 128:
            raise InvalidDocument("A tensor's name has 1 to 128 characters.")

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape without the batch dimension."""
        return self.shape[1:] if self.shape[0] == -1 else self.shape

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape), "unit": self.unit}

    @classmethod
    def read(cls, reader: Reader) -> TensorSpec:
        return cls(reader.text("name"), reader.text("datatype"), _shape(reader), reader.text("unit", ""))


def _shape(reader: Reader) -> tuple[int, ...]:
    return reader.integers("shape")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's value: little-endian, row-major bytes (numpy's ``tobytes()`` on the machines we support)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        size = ITEM_BYTES[datatype(self.datatype)]
        if len(self.shape) > MAX_DIMENSIONS or any(dimension < 0 for dimension in self.shape):
            raise InvalidDocument(f"Tensor {self.name!r} has shape {list(self.shape)}.")
        if prod(self.shape) * size != len(self.data):
            raise InvalidDocument(
                f"Tensor {self.name!r} of shape {list(self.shape)} and type {self.datatype} needs "
                f"{prod(self.shape) * size} bytes and has {len(self.data)}."
            )

"""A window of sensor values on its way to the device's pipeline, over MQTT. Format 1.

    b"HYW1"  magic
    u32      length of the header, little-endian
    header   canonical JSON: format, sample_id, tensors (name, datatype, shape without a batch axis)
    data     the tensors' bytes in the header's order, little-endian, row-major

It carries no label: what a device sees has none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.tensors import ITEM_BYTES, MAX_ELEMENTS, Tensor, datatype

FORMAT = 1
MAGIC = b"HYW1"
MAX_WINDOW_BYTES = 4 * 1024 * 1024
MAX_TENSORS = 64
_MAX_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Window:
    """Raw values of one moment: the model's inputs by name, and the id that labels will come under."""

    sample_id: str
    tensors: tuple[Tensor, ...]

    def to_bytes(self) -> bytes:
        tensors = [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in self.tensors]
        header = canonical({"format": FORMAT, "sample_id": names.sample_id(self.sample_id), "tensors": tensors})
        return b"".join([MAGIC, struct.pack("<I", len(header)), header, *(tensor.data for tensor in self.tensors)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Window:
        """Read a message. Raises InvalidDocument where it is not exactly one window of format 1."""
        if not 8 <= len(data) <= MAX_WINDOW_BYTES or data[:4] != MAGIC:
            raise InvalidDocument("The message is not a window of format 1.")
        (length,) = struct.unpack_from("<I", data, 4)
        if length > min(_MAX_HEADER_BYTES, len(data) - 8):
            raise InvalidDocument("The window's header is longer than its message.")
        reader = parse(data[8 : 8 + length], "window")
        reader.format(FORMAT)
        sample_id = reader.text("sample_id", check=names.sample_id)
        described = reader.objects("tensors", _describe)
        reader.close()
        if not 1 <= len(described) <= MAX_TENSORS or len({name for name, _, _ in described}) != len(described):
            raise InvalidDocument(f"A window holds 1 to {MAX_TENSORS} tensors, each name once.")
        position = 8 + length
        tensors = []
        for name, kind, shape in described:
            end = position + prod(shape) * ITEM_BYTES[kind]
            tensors.append(Tensor(name, kind, shape, data[position:end]))
            position = end
        if position != len(data):
            raise InvalidDocument("The window has bytes behind its last tensor.")
        return cls(sample_id, tuple(tensors))


def _describe(reader: Reader) -> tuple[str, str, tuple[int, ...]]:
    name, kind, shape = reader.text("name"), reader.text("datatype", check=datatype), reader.integers("shape")
    if any(size < 0 for size in shape) or prod(shape) > MAX_ELEMENTS:
        raise InvalidDocument(f"Tensor {name[:80]!r} of the window has an impossible shape.")
    return name, kind, shape

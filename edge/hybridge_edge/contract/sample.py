"""A sample: what one inference leaves behind on the device. Format 1 of the spool's record body.

    b"HYS1"  magic
    u32      length of the header, little-endian
    header   canonical JSON; lists the tensors' names, datatypes and shapes
    data     the tensors' bytes in the header's order

Integrity is the spool's business (a CRC a record) and S3's (a digest a batch); this format only has to be read exactly.
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
MAGIC = b"HYS1"
MAX_SAMPLE_BYTES = 16 * 1024 * 1024
_MAX_HEADER_BYTES = 64 * 1024
REASONS = ("random", "low-confidence")
"""Why a sample was kept."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One captured inference.

    Attributes:
        sample_id: names it for labels that come later. version, digest: the package that answered.
        features_digest: the graph that made ``features``.
        captured_at_ms: the device's clock, milliseconds since 1970; for people, never for order.
        reason: one of REASONS. confidence: the largest value of the confidence output, -1.0 where there is none.
        features, outputs: tensors of one row, the batch axis removed.
    """

    sample_id: str
    model: str
    version: str
    digest: str
    features_digest: str
    captured_at_ms: int
    reason: str
    confidence: float
    features: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def to_bytes(self) -> bytes:
        header = canonical(
            {
                "format": FORMAT,
                "sample_id": self.sample_id,
                "model": self.model,
                "version": self.version,
                "digest": self.digest,
                "features_digest": self.features_digest,
                "captured_at_ms": self.captured_at_ms,
                "reason": self.reason,
                "confidence": self.confidence,
                "features": [_describe(tensor) for tensor in self.features],
                "outputs": [_describe(tensor) for tensor in self.outputs],
            }
        )
        parts = [MAGIC, struct.pack("<I", len(header)), header]
        parts += [tensor.data for tensor in (*self.features, *self.outputs)]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sample:
        """Read a record body. Raises InvalidDocument where it is not exactly one sample of format 1."""
        if len(data) < 8 or data[:4] != MAGIC or len(data) > MAX_SAMPLE_BYTES:
            raise InvalidDocument("The record is not a sample of format 1.")
        (length,) = struct.unpack_from("<I", data, 4)
        if length > min(_MAX_HEADER_BYTES, len(data) - 8):
            raise InvalidDocument("The sample's header is longer than its record.")
        reader = parse(data[8 : 8 + length], "sample")
        reader.format(FORMAT)
        body = _Body(data, 8 + length)
        sample = cls(
            sample_id=reader.text("sample_id", check=names.sample_id),
            model=reader.text("model", check=names.model_name),
            version=reader.text("version", check=names.version),
            digest=reader.text("digest", check=names.digest),
            features_digest=reader.text("features_digest", check=names.digest),
            captured_at_ms=reader.integer("captured_at_ms"),
            reason=reader.text("reason"),
            confidence=reader.number("confidence"),
            features=reader.objects("features", body.read),
            outputs=reader.objects("outputs", body.read),
        )
        reader.close()
        body.close()
        return sample


def _describe(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


class _Body:
    """Cuts the tensors' bytes off one after the other."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    def read(self, reader: Reader) -> Tensor:
        name, kind, shape = reader.text("name"), reader.text("datatype", check=datatype), reader.integers("shape")
        if any(size < 0 for size in shape) or prod(shape) > MAX_ELEMENTS:
            raise InvalidDocument(f"Tensor {name[:80]!r} of the sample has an impossible shape.")
        end = self._position + prod(shape) * ITEM_BYTES[kind]
        tensor = Tensor(name, kind, shape, self._data[self._position : end])
        self._position = end
        return tensor

    def close(self) -> None:
        if self._position != len(self._data):
            raise InvalidDocument("The sample has bytes behind its last tensor.")

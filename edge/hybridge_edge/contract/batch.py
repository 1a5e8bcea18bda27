"""The manifest of a batch of samples in S3. Format 1. Written last: where it lies, the batch is complete.

The data is one .npz that numpy reads alone (``allow_pickle=False``); row i of every array is one sample::

    sample_id  <U     seq <i8     captured_at_ms <i8     version <U     reason <U     confidence <f4
    features.NAME     (rows, ...)      outputs.NAME     (rows, ...)

A sample's identity is (thing, epoch, seq): whoever reads two batches with the same identity keeps one.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument

FORMAT = 1
MAX_BATCH_MANIFEST_BYTES = 64 * 1024
MAX_BATCH_SAMPLES = 65_536
FEATURE_PREFIX = "features."
OUTPUT_PREFIX = "outputs."


@dataclass(frozen=True, slots=True)
class BatchManifest:
    """What one batch holds.

    Attributes:
        thing: the device. epoch: which life of the device's spool; seq counts inside it.
        first_seq, last_seq: smallest and largest seq in the data; count: its rows.
        features_digest: one for the whole batch; a dataset never mixes digests.
        versions: the model versions that answered.
        data_key, data_sha256, data_size: the .npz, in the same bucket.
    """

    thing: str
    model: str
    epoch: str
    first_seq: int
    last_seq: int
    count: int
    features_digest: str
    versions: tuple[str, ...]
    data_key: str
    data_sha256: str
    data_size: int
    created_at_ms: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_BATCH_SAMPLES or self.last_seq - self.first_seq + 1 < self.count:
            raise InvalidDocument(
                f"The batch of {self.thing!r} counts {self.count} samples in {self.first_seq}..{self.last_seq}."
            )

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "format": FORMAT,
                "thing": self.thing,
                "model": self.model,
                "epoch": self.epoch,
                "first_seq": self.first_seq,
                "last_seq": self.last_seq,
                "count": self.count,
                "features_digest": self.features_digest,
                "versions": list(self.versions),
                "data_key": self.data_key,
                "data_sha256": self.data_sha256,
                "data_size": self.data_size,
                "created_at_ms": self.created_at_ms,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> BatchManifest:
        """Read a batch manifest, or raise InvalidDocument with the field and the reason."""
        reader = parse(data, "batch manifest", MAX_BATCH_MANIFEST_BYTES)
        reader.format(FORMAT)
        batch = cls(
            thing=reader.text("thing", check=names.thing_name),
            model=reader.text("model", check=names.model_name),
            epoch=reader.text("epoch"),
            first_seq=reader.integer("first_seq"),
            last_seq=reader.integer("last_seq"),
            count=reader.integer("count"),
            features_digest=reader.text("features_digest", check=names.digest),
            versions=reader.strings("versions"),
            data_key=reader.text("data_key"),
            data_sha256=reader.text("data_sha256", check=names.digest),
            data_size=reader.integer("data_size"),
            created_at_ms=reader.integer("created_at_ms"),
        )
        reader.close()
        return batch

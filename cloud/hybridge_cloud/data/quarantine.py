"""Batches that were refused: one small record each in S3, with the reason, so that none is forgotten.

The batch itself stays where the device put it; nothing of it is copied, moved or counted as returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.data.batches import BatchRefused
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse, sha256
from hybridge_edge.contract.errors import Conflict

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One refused batch: its manifest's key and why."""

    key: str
    reason: str


def prefix(model: str) -> str:
    return f"quarantine/{names.model_name(model)}/"


def record(bucket: Bucket, model: str, refused: BatchRefused) -> Quarantined:
    """Write the record of a refused batch; the first reason stays."""
    entry = Quarantined(refused.key, refused.reason[:MAX_REASON_CHARACTERS])
    place = prefix(model) + sha256(entry.key.encode()).removeprefix("sha256:") + ".json"
    try:
        bucket.put(place, canonical({"format": FORMAT, "key": entry.key, "reason": entry.reason}), only_if_absent=True)
    except Conflict:
        return _read(bucket.get(place))
    return entry


def list_all(bucket: Bucket, model: str) -> tuple[Quarantined, ...]:
    """Every refused batch of a model, in the order of their records' names."""
    return tuple(_read(bucket.get(key)) for key, _, _ in bucket.list(prefix(model)))


def _read(data: bytes) -> Quarantined:
    reader = parse(data, "quarantine record")
    reader.format(FORMAT)
    entry = Quarantined(reader.text("key"), reader.text("reason"))
    reader.close()
    return entry

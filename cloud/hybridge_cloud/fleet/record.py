"""The record of a fleet, ``fleets/FLEET.json``: its epoch counter and the models it is meant to run. Format 1.

Every change is a conditional put, so two commands at once never hand out one epoch twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridge_cloud.aws.s3 import Bucket, ObjectMissing
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import Conflict, Refused

FORMAT = 1
MAX_TRIES = 50
"""Of a conditional put; each loss means that another command got through."""


@dataclass(frozen=True, slots=True)
class FleetModel:
    """A model of a fleet: the version the last deployment asked for, its package's digest, who asked and when."""

    model: str
    version: str
    digest: str
    rollout: str
    epoch: int

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "rollout": self.rollout,
            "epoch": self.epoch,
        }

    @classmethod
    def read(cls, reader: Reader) -> FleetModel:
        return cls(
            reader.text("model", check=names.model_name),
            reader.text("version", check=names.version),
            reader.text("digest", check=names.digest),
            reader.text("rollout"),
            reader.integer("epoch"),
        )


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """What is known of a fleet besides its devices.

    Attributes:
        prefix: of its components' names. epoch: the highest handed out. models: what it is meant to run.
    """

    fleet: str
    prefix: str
    epoch: int = 0
    models: tuple[FleetModel, ...] = ()

    def find(self, model: str) -> FleetModel | None:
        return next((item for item in self.models if item.model == model), None)

    def with_model(self, model: FleetModel) -> FleetRecord:
        """The record with one model replaced or added; an older epoch never replaces a newer one."""
        found = self.find(model.model)
        if found is not None and found.epoch > model.epoch:
            return self
        others = tuple(item for item in self.models if item.model != model.model)
        return replace(self, models=(*others, model))

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "format": FORMAT,
                "fleet": self.fleet,
                "prefix": self.prefix,
                "epoch": self.epoch,
                "models": [item.to_json() for item in sorted(self.models, key=lambda item: item.model)],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> FleetRecord:
        reader = parse(data, "fleet record")
        reader.format(FORMAT)
        record = cls(
            reader.text("fleet", check=names.fleet_name),
            names.ComponentNames(reader.text("prefix")).prefix,
            reader.integer("epoch"),
            reader.objects("models", FleetModel.read),
        )
        reader.close()
        return record


def create(bucket: Bucket, fleet: str, prefix: str) -> FleetRecord:
    """Write the record of a new fleet, or return the one that is there.

    Raises:
        Conflict: the fleet exists with another prefix.
    """
    record = FleetRecord(names.fleet_name(fleet), names.ComponentNames(prefix).prefix)
    try:
        bucket.put(names.fleet_key(fleet), record.to_bytes(), only_if_absent=True)
        return record
    except Conflict:
        found = read(bucket, fleet)
    if found.prefix != record.prefix:
        raise Conflict(f"The fleet {fleet!r} exists with the component prefix {found.prefix!r}.", "Use that prefix.")
    return found


def read(bucket: Bucket, fleet: str) -> FleetRecord:
    """A fleet's record. Raises Refused where there is no such fleet."""
    return _read(bucket, fleet)[0]


def find(bucket: Bucket, fleet: str) -> FleetRecord | None:
    """A fleet's record, or None where there is no such fleet."""
    try:
        return FleetRecord.from_bytes(bucket.get(names.fleet_key(fleet)))
    except ObjectMissing:
        return None


def change(bucket: Bucket, fleet: str, changed: Callable[[FleetRecord], FleetRecord]) -> FleetRecord:
    """Change a fleet's record by a pure function of it, which is called again whenever another writer was faster.

    Raises:
        Refused: no such fleet. Conflict: others got through MAX_TRIES times in a row.
    """
    for _ in range(MAX_TRIES):
        record, etag = _read(bucket, fleet)
        after = changed(record)
        if after == record:
            return record
        try:
            bucket.put(names.fleet_key(fleet), after.to_bytes(), if_match=etag)
            return after
        except Conflict:
            continue
    raise Conflict(f"The record of the fleet {fleet!r} is changed by too many commands at once.", "Try again.")


def next_epoch(bucket: Bucket, fleet: str) -> int:
    """Take the fleet's next epoch; no other call ever gets the same."""
    return change(bucket, fleet, lambda record: replace(record, epoch=record.epoch + 1)).epoch


def all_fleets(bucket: Bucket) -> tuple[str, ...]:
    """Names of the fleets that have a record, sorted."""
    keys = [key for key, _, _ in bucket.list(names.fleet_key("x").rpartition("/")[0] + "/")]
    return tuple(sorted(key.rpartition("/")[2].removesuffix(".json") for key in keys if key.endswith(".json")))


def _read(bucket: Bucket, fleet: str) -> tuple[FleetRecord, str]:
    try:
        data, etag = bucket.get_with_etag(names.fleet_key(fleet))
    except ObjectMissing:
        raise Refused(f"There is no fleet {fleet!r}.", f"Make it: hybridge fleet create {fleet}") from None
    return FleetRecord.from_bytes(data), etag

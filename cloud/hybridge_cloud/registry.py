"""The model registry, ``registry/MODEL/VERSION.json``: what each published package is and comes from. Format 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybridge_cloud.aws.s3 import Bucket, ObjectMissing
from hybridge_cloud.fleet import record as fleet_record
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Conflict, InvalidDocument, Refused

FORMAT = 1
STAGES = ("candidate", "approved", "production", "archived")


@dataclass(frozen=True, slots=True)
class RegistryRecord:
    """One published package.

    Attributes:
        digest: of its manifest. content: of everything in it, the signature included.
        fleet: the one it was published for first. stage: one of STAGES.
        dataset, parent: its lineage, "" for a first training.
    """

    model: str
    version: str
    digest: str
    content: str
    features_digest: str
    fleet: str
    created_at: str
    stage: str = "candidate"
    dataset: str = ""
    parent: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "format": FORMAT,
                "model": self.model,
                "version": self.version,
                "digest": self.digest,
                "content": self.content,
                "features_digest": self.features_digest,
                "fleet": self.fleet,
                "created_at": self.created_at,
                "stage": self.stage,
                "dataset": self.dataset,
                "parent": self.parent,
                "metrics": self.metrics,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RegistryRecord:
        reader = parse(data, "registry record")
        reader.format(FORMAT)
        found = cls(
            model=reader.text("model", check=names.model_name),
            version=reader.text("version", check=names.version),
            digest=reader.text("digest", check=names.digest),
            content=reader.text("content", check=names.digest),
            features_digest=reader.text("features_digest", check=names.digest),
            fleet=reader.text("fleet", check=names.fleet_name),
            created_at=reader.text("created_at"),
            stage=reader.text("stage", check=_stage),
            dataset=reader.text("dataset"),
            parent=reader.text("parent"),
            metrics=reader.numbers_by_name("metrics"),
        )
        reader.close()
        return found


def _stage(text: str) -> str:
    if text not in STAGES:
        raise InvalidDocument(f"{text[:40]!r} is not a stage of the registry")
    return text


def add(bucket: Bucket, record: RegistryRecord) -> bool:
    """Register a package; False where the same content is registered already.

    Raises:
        Conflict: this version is registered with other content.
    """
    try:
        bucket.put(names.registry_key(record.model, record.version), record.to_bytes(), only_if_absent=True)
        return True
    except Conflict:
        found = get(bucket, record.model, record.version)
    if found.content != record.content:
        raise Conflict(
            f"{record.model} {record.version} is published already with other content "
            f"({found.digest[:19]}, not {record.digest[:19]}).",
            "Compile the package at a higher version; a published version never changes.",
        )
    return False


def get(bucket: Bucket, model: str, version: str) -> RegistryRecord:
    """The record of a published package. Raises Refused where there is none."""
    try:
        return RegistryRecord.from_bytes(bucket.get(names.registry_key(model, version)))
    except ObjectMissing:
        raise Refused(
            f"{model} {version} is not published.", "Publish its package: hybridge publish PKG --fleet FLEET"
        ) from None


def versions(bucket: Bucket, model: str) -> tuple[str, ...]:
    """The published versions of a model, lowest first."""
    prefix = names.registry_key(model, "0.0.0").rpartition("/")[0] + "/"
    found = [key.rpartition("/")[2].removesuffix(".json") for key, _, _ in bucket.list(prefix)]
    return tuple(sorted(found, key=names.version_key))


def champion(fleet: str, model: str, bucket: Bucket | None = None) -> RegistryRecord | None:
    """The package a fleet is meant to run of a model, or None where none was ever deployed to it.

    Raises:
        Refused: there is no such fleet.
    """
    bucket = bucket or Bucket.from_environment()
    wanted = fleet_record.read(bucket, fleet).find(model)
    return None if wanted is None else get(bucket, model, wanted.version)

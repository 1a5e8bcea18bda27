"""The documents that stages leave as their word: quality.json, evaluation.json, publish.json. Format 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.retrain.claim import record_key
from hybridge_cloud.retrain.compare import Comparison
from hybridge_cloud.retrain.material import MaterialCounts
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
QUALITY_FILE = "quality.json"
EVALUATION_FILE = "evaluation.json"
PUBLISH_FILE = "publish.json"


@dataclass(frozen=True, slots=True)
class Quality:
    """Whether a dataset is fit to train on.

    Attributes:
        champion, champion_digest: version and digest of the package every later stage works against.
        counts: None where the material could not be put together. audited, suspects: see `retrain.audit`.
    """

    accepted: bool
    reason: str
    champion: str
    champion_digest: str
    counts: MaterialCounts | None = None
    audited: int = 0
    suspects: int = 0

    def write(self, bucket: Bucket, dataset_key: str) -> None:
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "counts"}
        counts = [] if self.counts is None else [self.counts.to_json()]
        bucket.put(record_key(dataset_key, QUALITY_FILE), canonical({"format": FORMAT, **fields, "counts": counts}))

    @classmethod
    def read(cls, bucket: Bucket, dataset_key: str) -> Quality | None:
        """The verdict, or None where the stage has not ended."""
        data = _read(bucket, dataset_key, QUALITY_FILE)
        if data is None:
            return None
        reader = parse(data, QUALITY_FILE)
        reader.format(FORMAT)
        quality = cls(
            accepted=reader.boolean("accepted"),
            reason=reader.text("reason"),
            champion=reader.text("champion", check=names.version),
            champion_digest=reader.text("champion_digest", check=names.digest),
            counts=next(iter(reader.objects("counts", MaterialCounts.read)), None),
            audited=reader.integer("audited"),
            suspects=reader.integer("suspects"),
        )
        reader.close()
        return quality


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Champion and challenger compared. ``version``, ``digest``: the challenger's, as it will be published."""

    version: str
    digest: str
    comparison: Comparison

    def write(self, bucket: Bucket, dataset_key: str) -> None:
        fields = {"version": self.version, "digest": self.digest, "comparison": self.comparison.to_json()}
        bucket.put(record_key(dataset_key, EVALUATION_FILE), canonical({"format": FORMAT, **fields}))

    @classmethod
    def read(cls, bucket: Bucket, dataset_key: str) -> Evaluated | None:
        """The verdict, or None where the stage has not ended."""
        data = _read(bucket, dataset_key, EVALUATION_FILE)
        if data is None:
            return None
        reader = parse(data, EVALUATION_FILE)
        reader.format(FORMAT)
        evaluated = cls(
            reader.text("version", check=names.version),
            reader.text("digest", check=names.digest),
            reader.object("comparison", Comparison.read),
        )
        reader.close()
        return evaluated


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """What a run ended with: the package that was published."""

    model: str
    version: str
    digest: str

    def write(self, bucket: Bucket, dataset_key: str) -> None:
        fields = {name: getattr(self, name) for name in self.__slots__}
        bucket.put(record_key(dataset_key, PUBLISH_FILE), canonical({"format": FORMAT, **fields}))

    @classmethod
    def read(cls, bucket: Bucket, dataset_key: str) -> PublishedVersion | None:
        """What was published, or None where the stage has not ended."""
        data = _read(bucket, dataset_key, PUBLISH_FILE)
        if data is None:
            return None
        reader = parse(data, PUBLISH_FILE)
        reader.format(FORMAT)
        published = cls(
            reader.text("model", check=names.model_name),
            reader.text("version", check=names.version),
            reader.text("digest", check=names.digest),
        )
        reader.close()
        return published


def _read(bucket: Bucket, dataset_key: str, file: str) -> bytes | None:
    key = record_key(dataset_key, file)
    return bucket.get(key) if bucket.exists(key) else None

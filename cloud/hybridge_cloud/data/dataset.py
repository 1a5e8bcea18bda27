"""A numbered dataset: which batches were new when it was decided to train, and which labels were known. Format 2.

Written once with a condition and never changed. It lists only its own batches and names the dataset before it that has
the same features digest; training reads that chain, so no batch stands in two datasets and none is forgotten.
The labels are all that were known, with the rule that chose between them: a sample of an earlier dataset whose label
changed since is trained on with its new one. Format 1 had no rule and named labels by keys alone; it is still read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hybridge_cloud.data.batches import Batch
from hybridge_cloud.data.join import JoinCounts
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_cloud.data.labels import LabelEntry
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse, sha256
from hybridge_edge.contract.errors import InvalidDocument, Refused, UsageError

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 2
MAX_DATASET_BATCHES = 8192
"""New batches in one dataset; what is beyond waits for the next."""
MAX_CHAIN = 10_000
_KEY = re.compile(r"datasets/([a-z0-9-]{1,64})/(\d{6})\.json")


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """One batch of a dataset: where its manifest lies, its digest, whose samples it holds."""

    key: str
    sha256: str
    thing: str
    epoch: str
    first_seq: int
    last_seq: int
    count: int

    @classmethod
    def of(cls, batch: Batch) -> BatchEntry:
        made = batch.manifest
        return cls(batch.key, batch.manifest_sha256, made.thing, made.epoch, made.first_seq, made.last_seq, made.count)

    @classmethod
    def read(cls, reader: Reader) -> BatchEntry:
        return cls(
            reader.text("key"),
            reader.text("sha256", check=names.digest),
            reader.text("thing", check=names.thing_name),
            reader.text("epoch"),
            reader.integer("first_seq"),
            reader.integer("last_seq"),
            reader.integer("count", minimum=1),
        )

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """What was counted when it was decided to train.

    Attributes:
        samples: new samples, each once. duplicates: rows that repeated one. labelled: new samples with one label.
        devices: how many sent them. joined: what became of their labels.
    """

    samples: int
    duplicates: int
    labelled: int
    devices: int
    joined: JoinCounts = field(default_factory=JoinCounts)

    @classmethod
    def read(cls, reader: Reader) -> DatasetCounts:
        return cls(
            samples=reader.integer("samples"),
            duplicates=reader.integer("duplicates"),
            labelled=reader.integer("labelled"),
            devices=reader.integer("devices"),
            joined=reader.object("joined", JoinCounts.read) if "joined" in reader.names() else JoinCounts(),
        )

    def to_json(self) -> dict[str, object]:
        fields: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "joined": self.joined.to_json()}


@dataclass(frozen=True, slots=True)
class Dataset:
    """One numbered dataset.

    Attributes:
        number: 1 and up, per model. previous: the number of the dataset it continues, 0 where it is the first of its
            features digest.
        labels: the imports of labels known then. rule: which of their labels count.
        created_at_ms: the gate's clock, milliseconds since 1970.
    """

    model: str
    number: int
    features_digest: str
    previous: int
    batches: tuple[BatchEntry, ...]
    labels: tuple[LabelEntry, ...]
    counts: DatasetCounts
    created_at_ms: int
    rule: LabelRule = field(default_factory=LabelRule)

    @property
    def key(self) -> str:
        return names.dataset_key(self.model, self.number)

    @property
    def run(self) -> str:
        """The name of the run that trains on it."""
        return f"dataset-{self.number:06d}"

    @property
    def contents(self) -> str:
        """The digest of what it holds: equal for equal batches, whatever its number or time."""
        return contents(self.features_digest, self.batches)

    @property
    def labels_digest(self) -> str:
        """The digest of the labels it was made from and of the rule that chose between them."""
        return sha256(canonical([self.rule.to_json(), sorted(entry.sha256 for entry in self.labels)]))

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "format": FORMAT,
                "model": self.model,
                "number": self.number,
                "features_digest": self.features_digest,
                "previous": self.previous,
                "batches": [entry.to_json() for entry in self.batches],
                "labels": [entry.to_json() for entry in self.labels],
                "rule": self.rule.to_json(),
                "labels_digest": self.labels_digest,
                "counts": self.counts.to_json(),
                "contents": self.contents,
                "created_at_ms": self.created_at_ms,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Dataset:
        """Read a dataset document, or raise InvalidDocument with the field and the reason."""
        reader = parse(data, "dataset")
        old = reader.format(1, FORMAT) == 1
        dataset = cls(
            model=reader.text("model", check=names.model_name),
            number=reader.integer("number", minimum=1),
            features_digest=reader.text("features_digest", check=names.digest),
            previous=reader.integer("previous"),
            batches=reader.objects("batches", BatchEntry.read),
            labels=tuple(map(LabelEntry.old, reader.strings("labels")))
            if old
            else reader.objects("labels", LabelEntry.read),
            counts=reader.object("counts", DatasetCounts.read),
            created_at_ms=reader.integer("created_at_ms"),
            rule=LabelRule() if old else reader.object("rule", LabelRule.read),
        )
        said = reader.text("contents", check=names.digest)
        labels_said = dataset.labels_digest if old else reader.text("labels_digest", check=names.digest)
        reader.close()
        same = (said, labels_said) == (dataset.contents, dataset.labels_digest)
        if not same or dataset.previous >= dataset.number:
            raise InvalidDocument(f"The dataset {dataset.key} does not hold what it says.", "It was altered.")
        return dataset


def contents(features_digest: str, batches: tuple[BatchEntry, ...]) -> str:
    """The digest over a features digest and the batches' digests, in whatever order they come."""
    return sha256(canonical([features_digest, sorted(entry.sha256 for entry in batches)]))


def parse_key(key: str) -> tuple[str, int]:
    """``(model, number)`` of a dataset's key, or UsageError."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise UsageError(f"{key[:200]!r} is not the key of a dataset.", "Write datasets/MODEL/NNNNNN.json.")
    return match[1], int(match[2])


def read(bucket: Bucket, key: str) -> Dataset:
    """Read one dataset; its content must be the one its key names."""
    model, number = parse_key(key)
    dataset = Dataset.from_bytes(bucket.get(key))
    if (dataset.model, dataset.number) != (model, number):
        raise InvalidDocument(f"The object {key} holds the dataset {dataset.key}.")
    return dataset


def chain(bucket: Bucket, dataset: Dataset) -> tuple[Dataset, ...]:
    """The datasets that ``dataset`` continues and itself, oldest first; all of one features digest."""
    found = [dataset]
    while found[-1].previous:
        if len(found) >= MAX_CHAIN:
            raise Refused(
                f"{dataset.key} continues more than {MAX_CHAIN} datasets.", "Start a new generation of features."
            )
        earlier = read(bucket, names.dataset_key(dataset.model, found[-1].previous))
        if earlier.features_digest != dataset.features_digest:
            raise InvalidDocument(f"The dataset {found[-1].key} continues {earlier.key}, made by other features.")
        found.append(earlier)
    return tuple(reversed(found))


class DatasetShelf:
    """All datasets of a model, each fetched once, for they never change."""

    __slots__ = ("_bucket", "_known", "model")

    def __init__(self, bucket: Bucket, model: str) -> None:
        self._bucket = bucket
        self.model = names.model_name(model)
        self._known: dict[str, Dataset] = {}

    def refresh(self) -> tuple[Dataset, ...]:
        """Every dataset there is now, by number."""
        for key, _, _ in self._bucket.list(names.dataset_prefix(self.model)):
            if key not in self._known and _KEY.fullmatch(key):
                self._known[key] = read(self._bucket, key)
        return tuple(sorted(self._known.values(), key=lambda dataset: dataset.number))

    def write(self, dataset: Dataset) -> None:
        """Write the next dataset. Raises Conflict where another gate wrote that number first."""
        self._bucket.put(dataset.key, dataset.to_bytes(), only_if_absent=True)
        self._known[dataset.key] = dataset

"""What a dataset gives to train on: its chain of batches, its labels, each device capped. The same bytes every time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.data import labels
from hybridge_cloud.data.batches import Array, Batch, read_batch
from hybridge_cloud.data.dataset import Dataset, chain
from hybridge_cloud.data.dataset import read as read_dataset
from hybridge_cloud.data.join import JoinCounts, LabelSet, changed
from hybridge_cloud.data.returned import Returned, combine
from hybridge_cloud.retrain.decision import device_limit
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.manifest import Manifest

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

_NUMPY_TYPES = {"FP16": "f2", "FP32": "f4", "FP64": "f8", "BOOL": "b1"}


@dataclass(frozen=True, slots=True)
class MaterialCounts:
    """Where every returned sample went: samples = labelled + unlabelled, kept = what is trained on.

    Attributes:
        samples: of the whole chain, each once. duplicates: rows removed. conflicts: unlabelled because labels disagree.
        joined: what became of their labels. relabelled: samples of earlier datasets that have another label now, and
            are trained on with it.
        device_limit: the most samples one device gives. by_label, by_device: what is kept.
    """

    samples: int
    duplicates: int
    repeated_ids: int
    labelled: int
    unlabelled: int
    conflicts: int
    device_limit: int
    kept: int
    by_label: dict[str, int]
    by_device: dict[str, int]
    relabelled: int = 0
    joined: JoinCounts = field(default_factory=JoinCounts)

    def to_json(self) -> dict[str, object]:
        fields: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "joined": self.joined.to_json()}

    @classmethod
    def read(cls, reader: Reader) -> MaterialCounts:
        return cls(
            samples=reader.integer("samples"),
            duplicates=reader.integer("duplicates"),
            repeated_ids=reader.integer("repeated_ids"),
            labelled=reader.integer("labelled"),
            unlabelled=reader.integer("unlabelled"),
            conflicts=reader.integer("conflicts"),
            device_limit=reader.integer("device_limit"),
            kept=reader.integer("kept"),
            by_label={name: int(count) for name, count in reader.numbers_by_name("by_label").items()},
            by_device={name: int(count) for name, count in reader.numbers_by_name("by_device").items()},
            relabelled=reader.integer("relabelled", 0),
            joined=reader.object("joined", JoinCounts.read) if "joined" in reader.names() else JoinCounts(),
        )


@dataclass(frozen=True, slots=True)
class Material:
    """Samples to train on: features by name (rows, ...), labels (rows,) as indices of the champion's labels."""

    features: dict[str, Array]
    labels: NDArray[np.int64]
    counts: MaterialCounts


def gather(bucket: Bucket, dataset: Dataset, champion: Manifest, device_share: float) -> Material:
    """Read, verify, join and cap what a dataset names. Depends on nothing but its arguments and what they name.

    Raises:
        Refused: another features digest, tensors that do not fit the champion's signature, labels it does not know, an
        altered batch, or too few devices for the cap.
    """
    if dataset.features_digest != champion.features_digest:
        raise Refused(
            f"{dataset.key} was made by features {dataset.features_digest[:19]}, the champion has "
            f"{champion.features_digest[:19]}.",
            "Returned features of another generation cannot be trained on.",
        )
    batches = _batches(bucket, dataset)
    returned = combine(batches)
    _check_signature(returned, champion)
    joined = LabelSet(labels.load(bucket, dataset.labels), dataset.rule)
    verdicts = [joined.judge(sample, thing, at) for thing, sample, at in _rows(returned)]
    known = np.array([verdict.label is not None for verdict in verdicts], dtype=np.bool_)
    texts_known = [verdict.label.label for verdict in verdicts if verdict.label is not None]
    chosen = returned.take(known)
    counts_by_device = chosen.by_thing()
    limit = device_limit(counts_by_device, device_share)
    if limit == 0:
        raise Refused(
            f"{len(counts_by_device)} devices gave labelled samples; none may hold more than {device_share:.1%}.",
            "Wait for more devices, or raise the share on purpose with --device-share.",
        )
    capped = _capped(chosen, limit)
    kept = chosen.take(capped)
    texts = [texts_known[row] for row in capped.tolist()]
    joins = JoinCounts.of(verdicts)
    counts = MaterialCounts(
        samples=len(returned),
        duplicates=returned.duplicates,
        repeated_ids=returned.repeated_ids,
        labelled=len(chosen),
        unlabelled=len(returned) - len(chosen),
        conflicts=joins.conflicts,
        device_limit=limit,
        kept=len(kept),
        by_label=dict(sorted(Counter(texts).items())),
        by_device=kept.by_thing(),
        relabelled=_relabelled(bucket, dataset, batches, joined),
        joined=joins,
    )
    return Material(kept.features, _indices(texts, champion), counts)


def _rows(returned: Returned) -> Iterator[tuple[str, str, int]]:
    """(thing, sample id, captured at) of each row."""
    return zip(returned.things.tolist(), returned.sample_ids.tolist(), returned.captured_at_ms.tolist(), strict=True)


def _relabelled(bucket: Bucket, dataset: Dataset, batches: list[Batch], now: LabelSet) -> int:
    """Samples of earlier datasets whose label was another one, by the labels and the rule of the dataset before."""
    if not dataset.previous:
        return 0
    before = read_dataset(bucket, names.dataset_key(dataset.model, dataset.previous))
    if before.labels == dataset.labels and before.rule == dataset.rule:
        return 0
    then = LabelSet(labels.load(bucket, before.labels), before.rule)
    own = {entry.key for entry in dataset.batches}
    earlier = combine(batch for batch in batches if batch.key not in own)
    return sum(changed(then, now, *row) for row in _rows(earlier))


def _batches(bucket: Bucket, dataset: Dataset) -> list[Batch]:
    found = []
    for link in chain(bucket, dataset):
        for entry in link.batches:
            batch = read_batch(bucket, entry.key)
            if batch.manifest_sha256 != entry.sha256:
                raise Refused(f"The batch {entry.key} was altered after {link.key} named it.", "Do not train on it.")
            found.append(batch)
    return found


def _check_signature(returned: Returned, champion: Manifest) -> None:
    wanted = {spec.name: spec for spec in champion.features}
    if set(returned.features) != set(wanted):
        raise Refused(f"Returned features are {sorted(returned.features)}, the champion's {sorted(wanted)}.")
    for name, array in returned.features.items():
        spec = wanted[name]
        kind = np.dtype(_NUMPY_TYPES.get(spec.datatype, spec.datatype.lower()))
        if array.shape[1:] != spec.item_shape or array.dtype != kind:
            raise Refused(
                f"Returned feature {name!r} is {array.dtype} {list(array.shape[1:])}; "
                f"the champion's is {kind} {list(spec.item_shape)}."
            )


def _capped(samples: Returned, limit: int) -> Array:
    """Indices of at most ``limit`` samples a device, drawn by a hash of their ids, in their order."""
    kept: list[int] = []
    for thing in np.unique(samples.things):
        rows = np.flatnonzero(samples.things == thing).tolist()
        rows.sort(key=lambda row: hashlib.sha256(str(samples.sample_ids[row]).encode()).digest())
        kept += rows[:limit]
    return np.array(sorted(kept), dtype=np.int64)


def _indices(texts: list[str], champion: Manifest) -> NDArray[np.int64]:
    order = {label: index for index, label in enumerate(champion.labels)}
    unknown = sorted(set(texts) - set(order))
    if unknown:
        raise Refused(
            f"The champion {champion.name} {champion.version} knows no label {', '.join(map(repr, unknown[:5]))}.",
            f"Its labels are {', '.join(champion.labels)}; correct the import, or train anew with a new class.",
        )
    return np.array([order[text] for text in texts], dtype=np.int64)

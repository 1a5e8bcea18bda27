"""Batches that no dataset holds yet, as one gate knows them.

An event is only a hint where to look and S3 is the truth, so an event that comes twice, late, in another order or never
changes nothing: adding a batch again is a no-op, and a sweep over the bucket finds what no event named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.data import quarantine
from hybridge_cloud.data.batches import Batch, BatchRefused, read_batch
from hybridge_cloud.data.dataset import MAX_DATASET_BATCHES, BatchEntry, Dataset, DatasetCounts
from hybridge_cloud.data.join import JoinCounts, LabelSet
from hybridge_cloud.data.returned import Identity, identities
from hybridge_edge.contract import names

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

DEVICES_PREFIX = "devices/"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is remembered of one verified batch; item i of each tuple is of row i."""

    entry: BatchEntry
    features_digest: str
    identities: tuple[Identity, ...]
    sample_ids: tuple[str, ...]
    captured_at_ms: tuple[int, ...]

    @classmethod
    def of(cls, batch: Batch) -> Arrival:
        return cls(
            BatchEntry.of(batch),
            batch.manifest.features_digest,
            tuple(identities(batch)),
            tuple(batch.sample_ids.tolist()),
            tuple(batch.captured_at_ms.tolist()),
        )

    def rows(self) -> Iterator[tuple[Identity, str, int]]:
        """(identity, sample id, captured at) of each row."""
        return zip(self.identities, self.sample_ids, self.captured_at_ms, strict=True)


@dataclass(frozen=True, slots=True)
class Group:
    """New batches of one features digest, and what they count."""

    features_digest: str
    entries: tuple[BatchEntry, ...]
    counts: DatasetCounts
    samples_by_device: dict[str, int]


class Arrivals:
    """The new batches of one model. Used by one thread."""

    __slots__ = ("_bucket", "_consumed", "_devices", "_earlier", "_entries", "_limit", "_new", "_refused", "model")

    def __init__(self, bucket: Bucket, model: str, limit: int = MAX_DATASET_BATCHES) -> None:
        self._bucket = bucket
        self._limit = limit
        self.model = model
        self._new: dict[str, Arrival] = {}
        self._devices: Counter[str] = Counter()  # how many of the new batches are whose
        self._consumed: set[str] = set()
        self._entries: tuple[BatchEntry, ...] = ()
        self._earlier: dict[str, frozenset[Identity]] = {}
        self._refused: dict[str, str] = {}

    @property
    def refused(self) -> dict[str, str]:
        """Manifest key -> reason of the batches that were quarantined."""
        return dict(self._refused)

    def add(self, key: str) -> None:
        """Take in the batch whose manifest lies at ``key``, unless it is known; quarantine it where it is refused.

        Raises:
            Unavailable: the bucket does not answer; nothing was taken in.
        """
        if key in self._new or key in self._consumed or key in self._refused:
            return
        crowded_out = ""
        if len(self._new) >= self._limit:  # what is beyond is found by a sweep after the next dataset
            crowded_out = self._crowded_out_by(key)
            if not crowded_out:
                return
        try:
            arrival = Arrival.of(read_batch(self._bucket, key))
            if crowded_out:
                self._forget(crowded_out)
            self._new[key] = arrival
            self._devices[arrival.entry.thing] += 1
        except BatchRefused as refused:
            self._refused[key] = quarantine.record(self._bucket, self.model, refused).reason

    def _crowded_out_by(self, key: str) -> str:
        """The batch that makes room for ``key``: the last of the device that has most, or "" where ``key``'s has most.

        So one device that sends without end can hold up itself, and nobody else.
        """
        parsed = names.parse_batch_manifest_key(key)
        most, count = max(self._devices.items(), key=lambda item: item[1])
        if parsed is None or self._devices[parsed[0]] + 1 >= count:
            return ""
        return max(other for other, arrival in self._new.items() if arrival.entry.thing == most)

    def _forget(self, key: str) -> None:
        self._devices[self._new.pop(key).entry.thing] -= 1

    def sweep(self) -> None:
        """Find every batch manifest of the model in the bucket, whether or not an event named it."""
        for key, _, _ in self._bucket.list(DEVICES_PREFIX):
            parsed = names.parse_batch_manifest_key(key)
            if parsed is not None and parsed[1] == self.model:
                self.add(key)

    def all(self) -> tuple[Arrival, ...]:
        """The new batches, by key."""
        return tuple(self._new[key] for key in sorted(self._new))

    def settle(self, datasets: Iterable[Dataset]) -> None:
        """Forget the batches that a dataset holds by now."""
        self._entries = tuple(entry for dataset in datasets for entry in dataset.batches)
        self._consumed = {entry.key for entry in self._entries}
        for key in self._consumed & self._new.keys():
            self._forget(key)

    def groups(self, labels: LabelSet) -> Iterator[Group]:
        """The new batches by features digest; each sample is counted once, also against earlier datasets."""
        for digest in sorted({arrival.features_digest for arrival in self._new.values()}):
            arrivals = sorted(
                (arrival for arrival in self._new.values() if arrival.features_digest == digest),
                key=lambda arrival: arrival.entry.key,
            )
            new: dict[Identity, tuple[str, int]] = {}
            for arrival in arrivals:
                known = self._known_before(arrival.entry)
                for identity, sample, captured_at_ms in arrival.rows():
                    if identity not in known:
                        new.setdefault(identity, (sample, captured_at_ms))
            by_device: dict[str, int] = {}
            for thing, _, _ in new:
                by_device[thing] = by_device.get(thing, 0) + 1
            rows = sum(len(arrival.identities) for arrival in arrivals)
            joined = JoinCounts.of(labels.judge(sample, thing, at) for (thing, _, _), (sample, at) in new.items())
            counts = DatasetCounts(len(new), rows - len(new), joined.labelled, len(by_device), joined)
            yield Group(digest, tuple(arrival.entry for arrival in arrivals), counts, by_device)

    def _known_before(self, entry: BatchEntry) -> set[Identity]:
        """Identities of earlier datasets' batches that can overlap with this one: a device that sent a group again."""
        known: set[Identity] = set()
        for other in self._entries:
            same = (other.thing, other.epoch) == (entry.thing, entry.epoch)
            if same and other.first_seq <= entry.last_seq and entry.first_seq <= other.last_seq:
                if other.key not in self._earlier:
                    self._earlier[other.key] = self._identities(other.key)
                known |= self._earlier[other.key]
        return known

    def _identities(self, key: str) -> frozenset[Identity]:
        try:
            return frozenset(identities(read_batch(self._bucket, key)))
        except BatchRefused as refused:
            # Altered after its dataset was made: the quality stage refuses that dataset; here it cannot be compared.
            self._refused[key] = quarantine.record(self._bucket, self.model, refused).reason
            return frozenset()

"""What came back, counted once: samples of many batches put together, duplicates removed by (thing, epoch, seq)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hybridge_cloud.data.batches import Array, Batch
from hybridge_edge.contract.errors import Refused

Identity = tuple[str, str, int]
"""(thing, epoch, seq): what makes two rows the same sample."""


@dataclass(frozen=True, slots=True)
class Returned:
    """Samples of one features digest, each once, in the order (thing, epoch, seq).

    Attributes:
        things, sample_ids: (rows,) str. captured_at_ms: (rows,) int64. features, outputs: (rows, ...) by tensor name.
        duplicates: rows that were removed. repeated_ids: rows whose sample id another row has too (they are kept).
    """

    features_digest: str
    things: Array
    sample_ids: Array
    captured_at_ms: Array
    features: dict[str, Array]
    outputs: dict[str, Array]
    duplicates: int
    repeated_ids: int

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, rows: Array) -> Returned:
        """The samples at ``rows`` (indices or a mask), in that order."""
        return Returned(
            self.features_digest,
            self.things[rows],
            self.sample_ids[rows],
            self.captured_at_ms[rows],
            {name: array[rows] for name, array in self.features.items()},
            {name: array[rows] for name, array in self.outputs.items()},
            self.duplicates,
            self.repeated_ids,
        )

    def by_thing(self) -> dict[str, int]:
        """Samples per device."""
        return dict(sorted(Counter(self.things.tolist()).items()))


def identities(batch: Batch) -> list[Identity]:
    """The identity of each row."""
    return [(batch.manifest.thing, batch.manifest.epoch, seq) for seq in batch.seqs.tolist()]


def combine(batches: Iterable[Batch]) -> Returned:
    """Put batches together; of rows with one identity, the one of the first batch by key stays.

    The order of the result does not depend on the order of ``batches``, so the same dataset always trains alike.

    Raises:
        Refused: there are none, or they differ in features digest, tensor names, types or shapes.
    """
    ordered = sorted(batches, key=lambda batch: batch.key)
    if not ordered:
        raise Refused("There are no batches to put together.")
    _check_alike(ordered)
    chosen: dict[Identity, tuple[int, int]] = {}
    rows = 0
    for index, batch in enumerate(ordered):
        rows += len(batch.seqs)
        for row, identity in enumerate(identities(batch)):
            chosen.setdefault(identity, (index, row))
    order = [chosen[identity] for identity in sorted(chosen)]
    things = np.array([identity[0] for identity in sorted(chosen)])
    starts = np.cumsum([0] + [len(batch.seqs) for batch in ordered])
    flat = np.array([starts[index] + row for index, row in order], dtype=np.int64)
    sample_ids = np.concatenate([batch.sample_ids for batch in ordered])[flat]
    first = ordered[0]
    return Returned(
        features_digest=first.manifest.features_digest,
        things=things,
        sample_ids=sample_ids,
        captured_at_ms=np.concatenate([batch.captured_at_ms for batch in ordered])[flat],
        features={name: np.concatenate([batch.features[name] for batch in ordered])[flat] for name in first.features},
        outputs={name: np.concatenate([batch.outputs[name] for batch in ordered])[flat] for name in first.outputs},
        duplicates=rows - len(order),
        repeated_ids=len(sample_ids) - len(np.unique(sample_ids)),
    )


def _check_alike(batches: Sequence[Batch]) -> None:
    digests = {batch.manifest.features_digest for batch in batches}
    if len(digests) != 1:
        raise Refused(f"Batches of {len(digests)} features digests never go into one dataset: {sorted(digests)}.")
    first = _signature(batches[0])
    for batch in batches:
        if _signature(batch) != first:
            raise Refused(f"The batch {batch.key} has other tensors than {batches[0].key}.")


def _signature(batch: Batch) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    tensors = [*sorted(batch.features.items()), *sorted(batch.outputs.items())]
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in tensors)

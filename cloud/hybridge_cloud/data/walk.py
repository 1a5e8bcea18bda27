"""Every sample that came back of a model, one batch in memory at a time, in the order of the batches' keys and of seq.

That order is (device, epoch, first seq) and does not change when more arrives, so two walks list alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hybridge_cloud.data.batches import Array, Batch, BatchRefused, read_batch
from hybridge_edge.contract import names

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

DEVICES_PREFIX = "devices/"


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: row ``index`` of ``batch``."""

    batch: Batch
    index: int

    @property
    def thing(self) -> str:
        return self.batch.manifest.thing

    @property
    def sample_id(self) -> str:
        return str(self.batch.sample_ids[self.index])

    @property
    def captured_at_ms(self) -> int:
        return int(self.batch.captured_at_ms[self.index])

    @property
    def version(self) -> str:
        return str(self.batch.versions[self.index])

    @property
    def confidence(self) -> float:
        return float(self.batch.confidences[self.index])

    @property
    def outputs(self) -> dict[str, Array]:
        return {name: array[self.index] for name, array in self.batch.outputs.items()}


def walk(bucket: Bucket, model: str, refused: Callable[[BatchRefused], None]) -> Iterator[Row]:
    """Every sample, each once. ``refused`` hears of batches that are not what they say; nothing is written."""
    device, seen = "", dict[str, set[int]]()
    for key, _, _ in bucket.list(DEVICES_PREFIX):
        parsed = names.parse_batch_manifest_key(key)
        if parsed is None or parsed[1] != model:
            continue
        try:
            batch = read_batch(bucket, key)
        except BatchRefused as error:
            refused(error)
            continue
        if device != (device := batch.manifest.thing):
            seen = {}  # batches of one device follow each other, so what it sent twice is found in what is held
        known = seen.setdefault(batch.manifest.epoch, set())
        for index in np.argsort(batch.seqs, kind="stable").tolist():
            seq = int(batch.seqs[index])
            if seq not in known:
                known.add(seq)
                yield Row(batch, index)

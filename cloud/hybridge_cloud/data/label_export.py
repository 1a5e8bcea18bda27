"""Returned samples for annotators, with the label that counts where there is one; ``label_file`` reads it back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from hybridge_cloud.data.batches import Array, BatchRefused
from hybridge_cloud.data.join import LabelSet
from hybridge_cloud.data.label_file import written
from hybridge_cloud.data.walk import Row, walk
from hybridge_edge.contract import names
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

COLUMNS = (
    "sample_id", "device", "captured_at", "model", "model_version", "prediction", "prediction_confidence",
    "label", "source", "confidence", "labelled_at",
)  # fmt: skip
"""Of every line; JSON lines leave out what is empty, but for the label, which is there to be filled in."""
Line = dict[str, object]


class Predictions:
    """What a device answered, in the words of the version that answered; manifests are fetched once each."""

    def __init__(self, bucket: Bucket, model: str) -> None:
        self._bucket = bucket
        self._model = model
        self._manifests: dict[str, Manifest | None] = {}

    def of(self, row: Row) -> str:
        """The class with the largest value of the first output, "" where there is none, or no such version."""
        manifest = self._manifest(row.version)
        if manifest is None or not manifest.labels:
            return ""
        values: Array | None = row.outputs.get(manifest.outputs[0].name)
        if values is None or values.ndim != 1 or len(values) != len(manifest.labels):
            return ""
        return manifest.labels[int(np.argmax(values))]

    def _manifest(self, version: str) -> Manifest | None:
        if version not in self._manifests:
            key = names.package_key(self._model, version, MANIFEST_FILE)
            found = Manifest.from_bytes(self._bucket.get(key)) if self._bucket.exists(key) else None
            self._manifests[version] = found
        return self._manifests[version]


def lines(
    bucket: Bucket,
    model: str,
    known: LabelSet,
    refused: Callable[[BatchRefused], None],
    *,
    since_ms: int = 0,
    until_ms: int | None = None,
    unlabelled: bool = False,
) -> Iterator[Line]:
    """One line a sample, in the order of ``walk``.

    Args:
        known: the labels, under the rule that chooses. since_ms, until_ms: of the capture, by the device's clock; the
            second is not included. unlabelled: only samples that no label counts for.
    """
    predictions = Predictions(bucket, model)
    for row in walk(bucket, model, refused):
        captured = row.captured_at_ms
        if captured < since_ms or (until_ms is not None and captured >= until_ms):
            continue
        label = known.judge(row.sample_id, row.thing, captured).label
        if unlabelled and label is not None:
            continue
        line: Line = dict.fromkeys(COLUMNS, "")
        line |= {
            "sample_id": row.sample_id,
            "device": row.thing,
            "captured_at": written(captured),
            "model": model,
            "model_version": row.version,
            "prediction": predictions.of(row),
        }
        if row.confidence >= 0:
            line["prediction_confidence"] = round(row.confidence, 6)
        if label is not None:
            line |= {"label": label.label, "source": label.shown_source, "confidence": label.confidence}
            line["labelled_at"] = written(label.said_at_ms) if label.said_at_ms else ""
        yield line


def as_csv(found: Iterator[Line]) -> Iterator[str]:
    """The header and each line as CSV text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in found:
        writer.writerow(line)
        yield stream.getvalue()
        stream.seek(0)
        stream.truncate()
    yield stream.getvalue()


def as_jsonl(found: Iterator[Line]) -> Iterator[str]:
    """Each line as JSON text, in the order of COLUMNS."""
    for line in found:
        kept = {name: value for name, value in line.items() if value != "" or name == "label"}
        yield json.dumps(kept, ensure_ascii=False) + "\n"

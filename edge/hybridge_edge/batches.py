"""Make batches of samples: one .npz that numpy alone reads, and the manifest that commits it; and lists of labels.

The same records give the same bytes, wherever and whenever they are made, so a repeated delivery writes the same keys.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridge_edge.arrays import Array, to_array
from hybridge_edge.contract import names
from hybridge_edge.contract.batch import FEATURE_PREFIX, OUTPUT_PREFIX, BatchManifest
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.feedback import MAGIC as FEEDBACK_MAGIC
from hybridge_edge.contract.feedback import Feedback
from hybridge_edge.contract.sample import Sample
from hybridge_edge.spool_reader import Entry

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, ready to be written: the data first, the manifest last."""

    data: bytes
    manifest: BatchManifest
    manifest_key: str


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of one model as JSON lines, ready to be written."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Batches:
    """What a group of spool entries became; ``unreadable`` are whole records of no format that is known here."""

    batches: tuple[Batch, ...]
    unreadable: tuple[Entry, ...]
    labels: tuple[Labels, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kind:
    """What all rows of one batch share."""

    epoch: str
    model: str
    features_digest: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]


def make(thing: str, entries: Sequence[Entry]) -> Batches:
    """Sort entries into batches of one model, features digest, epoch and set of tensors; order is kept inside each."""
    groups: dict[_Kind, list[tuple[Entry, Sample]]] = {}
    said: dict[tuple[str, str], list[tuple[Entry, Feedback]]] = {}
    unreadable = []
    for entry in entries:
        try:
            if entry.body.startswith(FEEDBACK_MAGIC):
                feedback = Feedback.from_bytes(entry.body)
                said.setdefault((entry.epoch, feedback.model), []).append((entry, feedback))
                continue
            sample = Sample.from_bytes(entry.body)
        except InvalidDocument:
            unreadable.append(entry)
            continue
        groups.setdefault(_kind(entry, sample), []).append((entry, sample))
    return Batches(
        batches=tuple(_batch(thing, kind, rows) for kind, rows in groups.items()),
        unreadable=tuple(unreadable),
        labels=tuple(_labels(thing, epoch, model, rows) for (epoch, model), rows in said.items()),
    )


def _labels(thing: str, epoch: str, model: str, rows: Sequence[tuple[Entry, Feedback]]) -> Labels:
    data = b"".join(feedback.to_line() for _, feedback in rows)
    return Labels(names.returned_labels_key(thing, model, _stem(epoch, [entry.seq for entry, _ in rows], data)), data)


def _stem(epoch: str, seqs: Sequence[int], data: bytes) -> str:
    return f"{epoch}-{min(seqs):012d}-{max(seqs):012d}-{hashlib.sha256(data).hexdigest()[:16]}"


def _kind(entry: Entry, sample: Sample) -> _Kind:
    features = [(FEATURE_PREFIX + tensor.name, tensor.datatype, tensor.shape) for tensor in sample.features]
    outputs = [(OUTPUT_PREFIX + tensor.name, tensor.datatype, tensor.shape) for tensor in sample.outputs]
    return _Kind(entry.epoch, sample.model, sample.features_digest, (*features, *outputs))


def _batch(thing: str, kind: _Kind, rows: Sequence[tuple[Entry, Sample]]) -> Batch:
    seqs = [entry.seq for entry, _ in rows]
    samples = [sample for _, sample in rows]
    arrays: dict[str, Array] = {
        "sample_id": np.array([sample.sample_id for sample in samples], np.str_),
        "seq": np.array(seqs, "<i8"),
        "captured_at_ms": np.array([sample.captured_at_ms for sample in samples], "<i8"),
        "version": np.array([sample.version for sample in samples], np.str_),
        "reason": np.array([sample.reason for sample in samples], np.str_),
        "confidence": np.array([sample.confidence for sample in samples], "<f4"),
    }
    columns = zip(*((*sample.features, *sample.outputs) for sample in samples), strict=True)
    for (name, _, _), column in zip(kind.tensors, columns, strict=True):
        arrays[name] = np.stack([to_array(tensor) for tensor in column])
    data = _npz(arrays)
    stem = _stem(kind.epoch, seqs, data)
    manifest = BatchManifest(
        thing=thing,
        model=kind.model,
        epoch=kind.epoch,
        first_seq=min(seqs),
        last_seq=max(seqs),
        count=len(seqs),
        features_digest=kind.features_digest,
        versions=tuple(sorted({sample.version for sample in samples})),
        data_key=names.batch_data_key(thing, kind.model, stem),
        data_sha256=sha256(data),
        data_size=len(data),
        created_at_ms=time.time_ns() // 1_000_000,
    )
    return Batch(data, manifest, names.batch_manifest_key(thing, kind.model, stem))


def _npz(arrays: dict[str, Array]) -> bytes:
    """What ``numpy.savez`` writes, with a fixed time in the archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME), member.getvalue())
    return buffer.getvalue()

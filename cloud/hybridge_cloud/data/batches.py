"""Read a batch that a device committed, trusting nothing in it: it came from a machine that somebody else may hold.

A batch that is not exactly what its manifest says is refused with the reason and never crashes the reader; what was
refused is recorded in S3 by `hybridge_cloud.data.quarantine`, so that it is counted and looked at once.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridge_edge.contract import names
from hybridge_edge.contract.batch import FEATURE_PREFIX, MAX_BATCH_MANIFEST_BYTES, OUTPUT_PREFIX, BatchManifest
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import HybridgeError, Refused

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

MAX_BATCH_DATA_BYTES = 256 * 1024**2
"""The largest .npz that is fetched."""
MAX_UNPACKED_BYTES = 1024**3
"""The most bytes the arrays of one batch may take in memory."""
MAX_ARRAYS = 64
MAX_ABSOLUTE_VALUE = 1e9
"""Features and outputs beyond this are not measurements."""
_COLUMNS = {"sample_id": "U", "seq": "i", "captured_at_ms": "i", "version": "U", "reason": "U", "confidence": "f"}
_NUMERIC = frozenset("fiub")
Array = NDArray[Any]


class BatchRefused(Refused):
    """A batch is not what its manifest says. ``key`` is the manifest's."""

    code = "BATCH_REFUSED"

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"The batch {key[:300]} is refused: {reason}.", "Look at the device that sent it.")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Batch:
    """One verified batch. Row i of every array is one sample.

    Attributes:
        key, manifest_sha256: the manifest's key in S3 and the digest of its bytes.
        sample_ids: (rows,) str. seqs: (rows,) int64, unique. versions: (rows,) str.
        captured_at_ms: (rows,) int64, the device's clock. confidences: (rows,) float, -1 where the model has none.
        features, outputs: (rows, ...) by tensor name; floating values are finite.
    """

    key: str
    manifest_sha256: str
    manifest: BatchManifest
    sample_ids: Array
    seqs: Array
    versions: Array
    captured_at_ms: Array
    confidences: Array
    features: dict[str, Array]
    outputs: dict[str, Array]


def read_batch(bucket: Bucket, key: str) -> Batch:
    """Fetch and verify the batch whose manifest lies at ``key``.

    Raises:
        BatchRefused: it is not what it says. Unavailable: the bucket does not answer; try again later.
    """
    manifest_bytes = _get(bucket, key, key, MAX_BATCH_MANIFEST_BYTES)
    manifest = _manifest(key, manifest_bytes)
    data = _get(bucket, key, manifest.data_key, MAX_BATCH_DATA_BYTES)
    if len(data) != manifest.data_size or sha256(data) != manifest.data_sha256:
        raise BatchRefused(key, "its data has another size or digest than its manifest says")
    arrays = _arrays(key, data)
    _check_columns(key, manifest, arrays)
    return Batch(
        key=key,
        manifest_sha256=sha256(manifest_bytes),
        manifest=manifest,
        sample_ids=arrays["sample_id"],
        seqs=arrays["seq"].astype(np.int64),
        versions=arrays["version"],
        captured_at_ms=arrays["captured_at_ms"].astype(np.int64),
        confidences=arrays["confidence"],
        features=_tensors(key, manifest, arrays, FEATURE_PREFIX),
        outputs=_tensors(key, manifest, arrays, OUTPUT_PREFIX),
    )


def _get(bucket: Bucket, key: str, object_key: str, limit: int) -> bytes:
    size = bucket.size(object_key)
    if size is None:
        raise BatchRefused(key, f"{object_key[:200]} is missing")
    if size > limit:
        raise BatchRefused(key, f"{object_key[:200]} has {size} bytes; {limit} are allowed")
    return bucket.get(object_key)


def _manifest(key: str, data: bytes) -> BatchManifest:
    parsed = names.parse_batch_manifest_key(key)
    if parsed is None:
        raise BatchRefused(key, "the key is not a batch manifest's")
    thing, model, stem = parsed
    try:
        manifest = BatchManifest.from_bytes(data)
    except HybridgeError as error:
        raise BatchRefused(key, error.message.rstrip(".")) from None
    # The key is what the device's policy lets it write, so the key says who speaks; the content must agree.
    if (manifest.thing, manifest.model) != (thing, model):
        raise BatchRefused(key, f"it speaks for {manifest.thing!r} and {manifest.model!r}")
    if manifest.data_key != names.batch_data_key(thing, model, stem):
        raise BatchRefused(key, f"its data lies at {manifest.data_key[:200]!r}, outside its own place")
    return manifest


def _arrays(key: str, data: bytes) -> dict[str, Array]:
    """Unpack an .npz without ever unpickling, and without unpacking more than was allowed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS or len({entry.filename for entry in entries}) != len(entries):
                raise BatchRefused(key, f"its data holds a name twice, or more than {MAX_ARRAYS} arrays")
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
                raise BatchRefused(key, f"its data unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
    except (ValueError, EOFError, KeyError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BatchRefused(key, f"its data cannot be read ({str(error)[:200]})") from None


def _array(data: bytes) -> Array:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown array format {version}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    # Said size is compared before numpy allocates it.
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject or expected != len(data) - stream.tell():
        raise ValueError("an array holds objects, or another size than its header says")
    stream.seek(0)
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _check_columns(key: str, manifest: BatchManifest, arrays: dict[str, Array]) -> None:
    for name, kind in _COLUMNS.items():
        column = arrays.get(name)
        if column is None or column.dtype.kind != kind or column.shape != (manifest.count,):
            raise BatchRefused(key, f"the array {name!r} is missing, or not {manifest.count} values of its type")
    seqs = arrays["seq"].astype(np.int64)
    if len(np.unique(seqs)) != len(seqs) or (int(seqs.min()), int(seqs.max())) != (
        manifest.first_seq,
        manifest.last_seq,
    ):
        raise BatchRefused(key, "its sequence numbers repeat, or are not the ones its manifest says")
    for sample in arrays["sample_id"].tolist():
        try:
            names.sample_id(sample)
        except HybridgeError as error:
            raise BatchRefused(key, error.message.rstrip(".")) from None
    if set(arrays["version"].tolist()) != set(manifest.versions):
        raise BatchRefused(key, "its model versions are not the ones its manifest says")


def _tensors(key: str, manifest: BatchManifest, arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if not found:
        raise BatchRefused(key, f"it holds no {prefix}* array")
    for name, array in found.items():
        if array.dtype.kind not in _NUMERIC or array.ndim < 1 or array.shape[0] != manifest.count:
            raise BatchRefused(key, f"the array {prefix}{name[:80]} is not {manifest.count} rows of numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BatchRefused(key, f"the array {prefix}{name[:80]} holds values that are not finite")
        if array.size and array.dtype.kind != "b" and max(-float(array.min()), float(array.max())) > MAX_ABSOLUTE_VALUE:
            raise BatchRefused(key, f"the array {prefix}{name[:80]} holds values beyond {MAX_ABSOLUTE_VALUE:g}")
    return found

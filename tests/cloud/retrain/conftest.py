"""Devices' batches as the uplink writes them."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from labelled import publish_champion

from hybridge_cloud.aws.s3 import Bucket
from hybridge_edge.contract import names
from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.manifest import Manifest

FEATURES_DIGEST = "sha256:" + "f" * 64


@dataclass(frozen=True)
class Device:
    """Writes batches as a device's uplink does: data first, manifest last."""

    thing: str
    model: str
    put: Callable[[str, bytes], Any]
    epoch: str = "e1"
    features_digest: str = FEATURES_DIGEST

    def batch(
        self,
        first: int,
        count: int,
        *,
        arrays: dict[str, np.ndarray] | None = None,
        data: bytes | None = None,
        fields: dict[str, Any] | None = None,
        features: np.ndarray | None = None,
        ids: list[str] | None = None,
    ) -> str:
        """Commit a batch and return its manifest's key. ``arrays``, ``data`` and ``fields`` spoil it on purpose."""
        seqs = np.arange(first, first + count, dtype=np.int64)
        columns: dict[str, np.ndarray] = {
            "sample_id": np.array(ids or [f"{self.thing}/{self.epoch}/{seq}" for seq in seqs]),
            "seq": seqs,
            "captured_at_ms": seqs * 20,
            "version": np.full(count, "1.0.0"),
            "reason": np.full(count, "random"),
            "confidence": np.full(count, 0.5, dtype=np.float32),
            "features.features": (features if features is not None else np.outer(seqs, np.ones(4)).astype(np.float32)),
            "outputs.probabilities": np.full((count, 2), 0.5, dtype=np.float32),
        }
        columns.update(arrays or {})
        stream = io.BytesIO()
        np.savez(stream, **columns)  # type: ignore[arg-type]
        body = stream.getvalue()
        stem = f"{self.epoch}-{first:08d}-{sha256(body)[7:19]}"
        manifest = {
            "thing": self.thing,
            "model": self.model,
            "epoch": self.epoch,
            "first_seq": first,
            "last_seq": first + count - 1,
            "count": count,
            "features_digest": self.features_digest,
            "versions": ("1.0.0",),
            "data_key": names.batch_data_key(self.thing, self.model, stem),
            "data_sha256": sha256(body),
            "data_size": len(body),
            "created_at_ms": 1,
            **(fields or {}),
        }
        self.put(manifest["data_key"], body if data is None else data)
        key = names.batch_manifest_key(self.thing, self.model, stem)
        self.put(key, BatchManifest(**manifest).to_bytes())
        return key


@pytest.fixture
def device(bucket: Bucket) -> Callable[..., Device]:
    """Make a device: ``device("t1", "model-a")``."""
    return lambda thing, model, **more: Device(thing, model, bucket.put, **more)


@pytest.fixture
def model() -> str:
    """A model of its own for each test, so that tests share one account."""
    return f"m-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def champion(bucket: Bucket, model: str) -> Manifest:
    """A published version 1.0.0 that knows two classes, walk and run."""
    return publish_champion(bucket, model, FEATURES_DIGEST)

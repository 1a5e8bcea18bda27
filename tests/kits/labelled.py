"""Labels and samples as annotators, devices and importers leave them in an account."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hybridge_cloud import registry
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_cloud.data.labels import LabelShelf
from hybridge_edge.contract import names
from hybridge_edge.contract.feedback import Feedback
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.tensors import TensorSpec

ROOT = Path(__file__).resolve().parents[2]
DAY = 24 * 3600 * 1000
NOW = 1_790_000_000_000
RULE = LabelRule()


def at(first: int, count: int, when: int) -> dict[str, Any]:
    """Columns of a batch captured then, each row leaning to one class."""
    outputs = np.tile(np.array([0.25, 0.75], np.float32), (count, 1))
    outputs[::2] = [0.75, 0.25]
    return {
        "captured_at_ms": np.arange(count, dtype=np.int64) * 1000 + when,
        "outputs.probabilities": outputs,
        "confidence": np.full(count, 0.75, np.float32),
    }


def objects(bucket: Bucket, model: str) -> list[tuple[str, int, str]]:
    return list(bucket.list(names.labels_prefix(model)))


def known(bucket: Bucket, model: str) -> set[Label]:
    return {replace(label, imported_at_ms=0) for label in LabelShelf(bucket, model).refresh(RULE).all()}


def said_on(bucket: Bucket, thing: str, model: str, stem: str, *said: tuple[str, str], at_ms: int = NOW) -> str:
    key = names.returned_labels_key(thing, model, stem)
    lines = (Feedback(sample, model, label, "nurse", 0.5, at_ms).to_line() for sample, label in said)
    bucket.put(key, b"".join(lines))
    return key


def publish_champion(bucket: Bucket, model: str, features_digest: str) -> Manifest:
    """Publish a version 1.0.0 that knows two classes, walk and run."""
    spec = importlib.util.spec_from_file_location("documents", ROOT / "tests" / "contract" / "documents.py")
    assert spec is not None
    assert spec.loader is not None
    documents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(documents)
    manifest = replace(
        documents.MANIFEST,
        name=model,
        version="1.0.0",
        features=(TensorSpec("features", "FP32", (-1, 4)),),
        outputs=(TensorSpec("probabilities", "FP32", (-1, 2)),),
        features_digest=features_digest,
        labels=("walk", "run"),
    )
    bucket.put(names.package_key(model, "1.0.0", "manifest.json"), manifest.to_bytes())
    digest = manifest.features_digest
    registry.add(bucket, registry.RegistryRecord(model, "1.0.0", manifest.digest, digest, digest, "f", "2026"))
    return manifest

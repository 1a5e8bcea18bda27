"""A label on its way to the device's management socket."""

from __future__ import annotations

from hybridge_edge.contract.document import canonical

FEEDBACK_S = 15.0
"""Longer than a label may wait for the disk."""


def feedback_line(sample_id: str, label: str, model: str, source: str, confidence: float) -> bytes:
    """What is asked."""
    fields: dict[str, object] = {
        "verb": "feedback", "sample_id": sample_id, "model": model, "label": label, "source": source,
        "confidence": float(confidence),
    }  # fmt: skip
    return canonical(fields)

"""A label on its way to the device's management socket."""

from __future__ import annotations

from hybridge_edge import lines
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Refused

FEEDBACK_S = 15.0
"""Longer than a label may wait for the disk."""


def feedback_line(sample_id: str, label: str, model: str, source: str, confidence: float) -> bytes:
    """What is asked."""
    fields: dict[str, object] = {
        "verb": "feedback", "sample_id": sample_id, "model": model, "label": label, "source": source,
        "confidence": float(confidence),
    }  # fmt: skip
    return canonical(fields)


def feedback_said(answer: bytes) -> None:
    """What was answered. Raises Refused with the server's words."""
    reader = parse(answer, "server's answer", lines.MAX_ANSWER_BYTES)
    if not reader.boolean("ok"):
        raise Refused(reader.text("message"), reader.text("remedy", ""))

"""EventBridge's events as they come out of a queue."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """An object came into being (Amazon S3, EventBridge event "Object Created")."""

    bucket: str
    key: str


def object_created(body: str) -> ObjectCreated | None:
    """Read an event; None for anything that is not one of S3's about a new object."""
    try:
        event = json.loads(body)
        if event["source"] != "aws.s3" or event["detail-type"] != "Object Created":
            return None
        found = ObjectCreated(event["detail"]["bucket"]["name"], event["detail"]["object"]["key"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found.bucket, str) and isinstance(found.key, str) else None

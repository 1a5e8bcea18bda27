"""The one place where an error becomes what a caller over gRPC reads: a status and a sentence."""

from __future__ import annotations

import logging
import uuid
from enum import IntEnum

from hybridge_edge.contract.errors import HybridgeError

_LOG = logging.getLogger(__name__)
MAX_TEXT = 1000
"""Characters of a sentence; a status travels in a header, which clients bound at 8 KiB."""


class Status(IntEnum):
    """gRPC's own (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md), as far as this server says them."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


_STATUS = {
    "ABORTED": Status.ABORTED,
    "CANCELLED": Status.CANCELLED,
    "CONFLICT": Status.ALREADY_EXISTS,
    "DEADLINE_EXCEEDED": Status.DEADLINE_EXCEEDED,
    "INVALID_ARGUMENT": Status.INVALID_ARGUMENT,
    "INVALID_DOCUMENT": Status.INVALID_ARGUMENT,
    "INVALID_NAME": Status.INVALID_ARGUMENT,
    "NOT_FOUND": Status.NOT_FOUND,
    "PERMISSION_DENIED": Status.PERMISSION_DENIED,
    "RESOURCE_EXHAUSTED": Status.RESOURCE_EXHAUSTED,
    "UNAVAILABLE": Status.UNAVAILABLE,
    "UNIMPLEMENTED": Status.UNIMPLEMENTED,
}
"""By code of our errors; the others are FAILED_PRECONDITION: understood, and the answer is no."""


def status(error: Exception) -> tuple[Status, str]:
    """What a caller is told. An error that is not ours is told as a number that the log knows, and as nothing else."""
    if isinstance(error, HybridgeError):
        return _STATUS.get(error.code, Status.FAILED_PRECONDITION), str(error)[:MAX_TEXT]
    incident = uuid.uuid4().hex[:12]
    _LOG.error("A request failed: incident %s", incident, exc_info=error, extra={"incident": incident})
    return Status.INTERNAL, f"The request failed; the device's log knows it as {incident}."

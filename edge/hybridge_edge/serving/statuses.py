"""The one place where an error becomes what a caller over gRPC reads: a status and a sentence."""

from __future__ import annotations

import logging
import uuid
from typing import Any, NoReturn

import grpc

from hybridge_edge.contract.errors import HybridgeError

_LOG = logging.getLogger(__name__)
MAX_TEXT = 1000
"""Characters of a sentence; a status travels in a header, which clients bound at 8 KiB."""
_STATUS = {
    "ABORTED": grpc.StatusCode.ABORTED,
    "CANCELLED": grpc.StatusCode.CANCELLED,
    "CONFLICT": grpc.StatusCode.ALREADY_EXISTS,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_DOCUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_NAME": grpc.StatusCode.INVALID_ARGUMENT,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "PERMISSION_DENIED": grpc.StatusCode.PERMISSION_DENIED,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "UNIMPLEMENTED": grpc.StatusCode.UNIMPLEMENTED,
}
"""By code of our errors; the others are FAILED_PRECONDITION: understood, and the answer is no."""


def status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """What a caller is told. An error that is not ours is told as a number that the log knows, and as nothing else."""
    if isinstance(error, HybridgeError):
        return _STATUS.get(error.code, grpc.StatusCode.FAILED_PRECONDITION), str(error)[:MAX_TEXT]
    incident = uuid.uuid4().hex[:12]
    _LOG.error("A request failed: incident %s", incident, exc_info=error, extra={"incident": incident})
    return grpc.StatusCode.INTERNAL, f"The request failed; the device's log knows it as {incident}."


def abort(context: Any, error: Exception) -> NoReturn:
    """End a call with the error's status."""
    context.abort(*status(error))
    raise AssertionError("grpc's abort raises")

"""What comes back: an answer's arrays and who gave it, or an error of ours in place of a status of grpc's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from hybridge_edge.contract.errors import (
    DeadlineExceeded,
    HybridgeError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    Refused,
    SequenceLost,
    Unavailable,
    Unimplemented,
)
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving import codec
from hybridge_edge.serving.stream import STATUS

_HANDSHAKE = re.compile(r"(?i)certificate|handshake|verification|ssl")
"""In what grpc says of a connection that could not be made."""
_ERRORS: dict[str, type[HybridgeError]] = {
    "ABORTED": SequenceLost,
    "INVALID_ARGUMENT": InvalidInput,
    "NOT_FOUND": ModelNotFound,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Unavailable,  # we cancel nothing that is waited for: a server that goes does
    "PERMISSION_DENIED": PermissionDenied,
    "UNIMPLEMENTED": Unimplemented,
}


@dataclass(frozen=True, slots=True)
class InferenceAnswer:
    """Outputs by name, batch first; who answered; times in microseconds as the server measured them.

    ``guard`` says what a guard of the package finds strange in the answer, "" where none does.
    """

    outputs: dict[str, Array]
    model: str
    version: str
    sample_id: str
    digest: str
    provider: str
    queue_us: int
    features_us: int
    infer_us: int
    total_us: int
    guard: str = ""
    copy_us: int = 0


def answer_of(
    response: messages.ModelInferResponse, aside: Mapping[int, bytes | memoryview] | None = None
) -> InferenceAnswer:
    """A response of our server, read. Raises InvalidInput where it contradicts itself.

    Args:
        aside: raw contents of outputs that the response lacks, by index.
    """
    parameters = response.parameters
    return InferenceAnswer(
        outputs=codec.decode_response(response, aside or {}),
        model=response.model_name,
        version=response.model_version,
        sample_id=parameters["sample_id"].string_param,
        digest=parameters["package_digest"].string_param,
        provider=parameters["provider"].string_param,
        queue_us=parameters["queue_us"].int64_param,
        features_us=parameters["features_us"].int64_param,
        infer_us=parameters["infer_us"].int64_param,
        total_us=parameters["total_us"].int64_param,
        copy_us=parameters["copy_us"].int64_param,
        guard=parameters["guard"].string_param if "guard" in parameters else "",
    )


def answer_in(response: bytes) -> InferenceAnswer:
    """The same from bytes."""
    return answer_of(messages.ModelInferResponse.FromString(response))


def answer_in_stream(response: bytes) -> InferenceAnswer:
    """The answer in a message of a stream. Raises the error that it holds instead."""
    read = messages.ModelStreamInferResponse.FromString(response)
    if read.error_message:
        parameters = read.infer_response.parameters
        status = parameters[STATUS].string_param if STATUS in parameters else ""
        raise refusal(status, read.error_message)
    return answer_of(read.infer_response)


def refusal(status: str, sentence: str) -> HybridgeError:
    """What the server said instead of an answer; ``status`` as grpc names it."""
    return _ERRORS.get(status, Refused)(sentence)


def error_of(error: grpc.RpcError, target: str) -> HybridgeError:
    """What a failed call says, as an error of ours."""
    code = error.code()
    kind = _ERRORS.get(code.name, Refused)
    if kind is Unavailable:
        if _HANDSHAKE.search(str(error.details())):
            return Unavailable(
                f"The TLS handshake with the server at {target} failed.",
                "Compare authorities, names and dates; hybridge-edge status on the server says why (docs/tls.md).",
            )
        return Unavailable(f"The server at {target} does not answer ({code.name}).", "See hybridge-edge status.")
    if kind is DeadlineExceeded:
        return DeadlineExceeded(f"The server at {target} gave no answer in time.", "Allow more, or ask for less.")
    return kind(str(error.details()))

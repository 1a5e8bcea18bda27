"""The five-line client, for the device's own programs::

with Client.connect() as client:
    answer = client.infer("watch", {"window": window})
    print(answer.outputs["probabilities"], answer.version)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from hybridge_edge import runtime
from hybridge_edge.contract.errors import (
    HybridgeError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    Refused,
    Unavailable,
)
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.protos import open_inference_pb2_grpc as services
from hybridge_edge.engine import Array
from hybridge_edge.serving import codec
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES

ENDPOINT_VARIABLE = "HYBRIDGE_ENDPOINT"
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_ERRORS: dict[object, type[HybridgeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,  # we cancel nothing: a server that goes does
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


def endpoint() -> str:
    """Where this device's server listens: ``HYBRIDGE_ENDPOINT``, else the socket in the runtime folder."""
    given = os.environ.get(ENDPOINT_VARIABLE)
    return given or runtime.Endpoint.read(runtime.folder()).inference


class Client:
    """A connection to one server; safe to share between threads."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        stub: Callable[[grpc.Channel], Any] = services.GRPCInferenceServiceStub
        self._stub = stub(self._channel)
        self._target = target

    @classmethod
    def connect(cls) -> Client:
        """A client of this device's server. Raises Unavailable where none has started."""
        return cls(endpoint())

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def model_ready(self, model: str, timeout_s: float = 5.0) -> bool:
        """Whether the model answers now. Raises Unavailable where the server does not."""
        request = messages.ModelReadyRequest(name=model)
        return bool(self._call(self._stub.ModelReady, request, timeout_s).ready)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        sample_id: str = "",
        capture: bool = True,
        timeout_s: float = 10.0,
    ) -> InferenceAnswer:
        """Run one request.

        Args:
            inputs: raw arrays by name, batch first. version: "" for the active one. sample_id: "" has the server
                choose one. capture: whether the device may keep the sample. timeout_s: the whole call's limit.

        Raises:
            InvalidInput, ModelNotFound, Overloaded, Unavailable: as the server says; Refused: anything else.
        """
        request = codec.encode_request(model, version, sample_id, list(inputs.items()), capture)
        return answer_of(self._call(self._stub.ModelInfer, request, timeout_s))

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            code = error.code()
            kind = _ERRORS.get(code, Refused)
            if kind is Unavailable:
                raise Unavailable(
                    f"The server at {self._target} does not answer ({code.name}).", "See hybridge-edge status."
                ) from None
            raise kind(str(error.details())) from None


def answer_of(response: messages.ModelInferResponse) -> InferenceAnswer:
    """A response of our server, read. Raises InvalidInput where it contradicts itself."""
    parameters = response.parameters
    return InferenceAnswer(
        outputs=codec.decode_response(response),
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

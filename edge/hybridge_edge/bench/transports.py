"""The ways a caller may ask. Each is a small class: made with an address, asked again and again, closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, Protocol

import grpc

from hybridge_edge.client import Client, InferenceAnswer, answer_of
from hybridge_edge.contract.errors import Refused, Unavailable, UsageError
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.protos import open_inference_pb2_grpc as services
from hybridge_edge.engine import Array
from hybridge_edge.serving import codec
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES

CALL_S = 10.0
"""How long one request may take."""


class Transport(Protocol):
    """One caller's connection."""

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        """One request, whose sample the device may not keep. Raises HybridgeError."""
        ...

    def close(self) -> None: ...


class Unary:
    """A call a request."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        return self._client.infer(model, inputs, capture=False, timeout_s=CALL_S)

    def close(self) -> None:
        self._client.close()


class Stream:
    """One stream for all requests, one under way at a time (ModelStreamInfer)."""

    def __init__(self, address: str) -> None:
        options = (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.enable_http_proxy", 0))
        self._channel = grpc.insecure_channel(address, options=options)
        self._requests: SimpleQueue[messages.ModelInferRequest | None] = SimpleQueue()
        stub: Callable[[grpc.Channel], Any] = services.GRPCInferenceServiceStub
        self._answers = stub(self._channel).ModelStreamInfer(iter(self._requests.get, None))

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        request = codec.encode_request(model, "", "", list(inputs.items()), False)
        request.parameters["timeout"].int64_param = int(CALL_S * 1e6)
        self._requests.put(request)
        try:
            response = next(self._answers)
        except (grpc.RpcError, StopIteration):
            raise Unavailable("The server ended the stream.", "See hybridge-edge status.") from None
        if response.error_message:
            raise Refused(response.error_message)
        return answer_of(response.infer_response)

    def close(self) -> None:
        self._requests.put(None)
        self._channel.close()


TRANSPORTS: Mapping[str, Callable[[str], Transport]] = {"unary": Unary, "stream": Stream}


def checked(name: str) -> str:
    """Return ``name`` if this version has such a transport, else raise UsageError."""
    if name not in TRANSPORTS:
        raise UsageError(f"This version cannot ask by {name!r}.", f"Transports: {', '.join(TRANSPORTS)}.")
    return name


def connect(name: str, address: str) -> Transport:
    """A connection by the transport of that name. Raises UsageError where this version has none."""
    return TRANSPORTS[checked(name)](address)

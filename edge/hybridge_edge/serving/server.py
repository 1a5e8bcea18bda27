"""The Open Inference Protocol over gRPC: thin, grpcio's threads, one place where errors become statuses."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from hybridge_edge.contract.errors import HybridgeError, Unavailable
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.protos import open_inference_pb2_grpc as services
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.loopback import parse_tcp
from hybridge_edge.serving import codec
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.service import Service

_LOG = logging.getLogger(__name__)
NAME = "hybridge"
PLATFORM = "onnxruntime_onnx"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_CALLS = 128
"""Calls in the server at once, running or waiting; more are told RESOURCE_EXHAUSTED."""
THREADS = 16
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a coin
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.max_concurrent_streams", MAX_CALLS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 30 * 60 * 1000),
)
_STATUS = {
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_NAME": grpc.StatusCode.INVALID_ARGUMENT,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
}
Context = Any  # grpcio ships no types
SOCKET_MODE = 0o660


class _ErrorsToStatus(grpc.ServerInterceptor):  # type: ignore[misc]
    """Maps our errors to statuses with their sentence; anything else to INTERNAL with an id that the log knows."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        inner = handler.unary_unary

        def guarded(request: Any, context: Context) -> Any:
            try:
                return inner(request, context)
            except HybridgeError as error:
                context.abort(_STATUS.get(error.code, grpc.StatusCode.FAILED_PRECONDITION), str(error))
            except Exception:
                incident = uuid.uuid4().hex[:12]
                _LOG.exception("A request failed: incident %s", incident, extra={"incident": incident})
                context.abort(grpc.StatusCode.INTERNAL, f"The request failed; the device's log knows it as {incident}.")

        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


class _Protocol(services.GRPCInferenceServiceServicer):
    """One method a verb, each a line over the service."""

    def __init__(self, service: Service, version: str, ready: Callable[[], bool]) -> None:
        self._service = service
        self._version = version
        self._ready = ready

    def ServerLive(self, request: Any, context: Context) -> messages.ServerLiveResponse:  # noqa: N802
        return messages.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Context) -> messages.ServerReadyResponse:  # noqa: N802
        return messages.ServerReadyResponse(ready=self._ready())

    def ModelReady(self, request: Any, context: Context) -> messages.ModelReadyResponse:  # noqa: N802
        versions = self._service.residents.versions(request.name)
        ready = request.version in versions if request.version else bool(versions)
        return messages.ModelReadyResponse(ready=ready)

    def ServerMetadata(self, request: Any, context: Context) -> messages.ServerMetadataResponse:  # noqa: N802
        return messages.ServerMetadataResponse(name=NAME, version=self._version, extensions=[])

    def ModelMetadata(self, request: Any, context: Context) -> messages.ModelMetadataResponse:  # noqa: N802
        residents = self._service.residents
        manifest = residents.find(request.name, request.version).manifest
        return messages.ModelMetadataResponse(
            name=manifest.name,
            versions=residents.versions(manifest.name) or [manifest.version],
            platform=PLATFORM,
            inputs=[_metadata(spec) for spec in manifest.inputs],
            outputs=[_metadata(spec) for spec in manifest.outputs],
        )

    def ModelInfer(self, request: Any, context: Context) -> messages.ModelInferResponse:  # noqa: N802
        answer = self._service.infer(codec.decode(request), Call(context.time_remaining()))
        return codec.encode(answer, raw=bool(request.raw_input_contents))


def _metadata(spec: TensorSpec) -> messages.ModelMetadataResponse.TensorMetadata:
    return messages.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


class InferenceServer:
    """Listens on a Unix socket and, where asked to, on loopback TCP.

    Args:
        socket: path of the Unix socket, under 107 bytes, in a folder of ours.
        tcp: HOST:PORT on loopback, port 0 for any, or "" for none.
        ready: whether every model that should be active is.

    Raises:
        UsageError: ``tcp`` is not on loopback. Unavailable: the port or the socket cannot be had.
    """

    def __init__(self, service: Service, socket: Path, tcp: str, version: str, ready: Callable[[], bool]) -> None:
        host, port = parse_tcp(tcp) if tcp else ("", 0)
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="infer"),
            interceptors=(_ErrorsToStatus(),),
            options=_OPTIONS,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        add: Callable[[object, object], None] = services.add_GRPCInferenceServiceServicer_to_server
        add(_Protocol(service, version, ready), self._server)
        self.socket = socket
        self.tcp = ""
        if tcp:
            self.tcp = f"{host}:{self._bind(f'{host}:{port}', 'Another program uses the port: choose another.')}"
        self._bind(f"unix:{socket}", "Remove what lies there, or name another folder with HYBRIDGE_RUNTIME_DIR.")
        socket.chmod(SOCKET_MODE)

    def _bind(self, address: str, remedy: str) -> int:
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise Unavailable(f"The server cannot listen on {address}.", remedy)
        return port

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for ``grace_s`` seconds, then close."""
        self._server.stop(grace_s).wait()
        self.socket.unlink(missing_ok=True)


def quiet_grpc() -> None:
    """Keep grpc's own C++ log out of ours; errors still come back as statuses. Call before grpc first works."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

"""The verbs of the protocol, each a line or two over the service, and how grpc is told of them.

A verb takes its request's message and gives its response's; only inferences go as bytes, which ``requests`` and
``responses`` read and write. Errors become statuses in ``statuses``, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from hybridge_edge.contract.errors import InvalidInput, PermissionDenied, Unimplemented
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.serving import description, statuses
from hybridge_edge.serving.answering import Answering
from hybridge_edge.serving.arrivals import Arrivals
from hybridge_edge.serving.call import LOCAL, Call
from hybridge_edge.serving.contents import SHOWN
from hybridge_edge.serving.repository import Repository
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.statistics import ModelStatistics
from hybridge_edge.serving.stream import Streams, timeout_of

NAME = "hybridge"
SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("model_configuration", "model_repository", "statistics")
Context = Any
"""grpcio ships no types."""
_SHARED_MEMORY = Unimplemented(
    "This server maps no shared memory of a client's.",
    "Send tensors in the request; on the device, over its Unix socket.",
)
_SETTINGS = Unimplemented(
    "Tracing and logging are not set over this protocol.", "Each answer says where its time went; see docs/protocol.md."
)
_UNLOAD_DEPENDENTS = "unload_dependents"


class Protocol:
    """The verbs for one transport.

    Args:
        ready: whether every model that should be active is. repository: None where nothing can be loaded.
        peer: who calls over this transport, LOCAL or NETWORK. most_streams: open at once. arrivals: of all transports.
    """

    def __init__(
        self,
        service: Service,
        version: str,
        ready: Callable[[], bool],
        repository: Repository | None,
        peer: str,
        most_streams: int,
        arrivals: Arrivals,
    ) -> None:
        answering = self._answering = Answering(service, arrivals, peer)
        self._service = service
        self._version = version
        self._ready = ready
        self._repository = repository
        self._peer = peer
        self.streams = Streams(most_streams, answering.answer, peer)

    def server_live(self, request: Any, context: Context) -> Message:
        return messages.ServerLiveResponse(live=True)

    def server_ready(self, request: Any, context: Context) -> Message:
        return messages.ServerReadyResponse(ready=self._ready())

    def model_ready(self, request: Any, context: Context) -> Message:
        versions = self._service.residents.versions(request.name)
        ready = request.version in versions if request.version else bool(versions)
        return messages.ModelReadyResponse(ready=ready)

    def server_metadata(self, request: Any, context: Context) -> Message:
        return messages.ServerMetadataResponse(name=NAME, version=self._version, extensions=EXTENSIONS)

    def model_metadata(self, request: Any, context: Context) -> Message:
        residents = self._service.residents
        manifest = residents.find(request.name, request.version).manifest
        return description.metadata(manifest, residents.versions(manifest.name) or [manifest.version])

    def model_config(self, request: Any, context: Context) -> Message:
        resident = self._service.residents.find(request.name, request.version)
        return messages.ModelConfigResponse(config=description.configuration(resident))

    def model_statistics(self, request: Any, context: Context) -> Message:
        return messages.ModelStatisticsResponse(
            model_stats=[description.statistics(found) for found in self._statistics(request.name, request.version)]
        )

    def repository_index(self, request: Any, context: Context) -> Message:
        _one_repository(request.repository_name)
        known = self._repository.index() if self._repository is not None else ()
        local = self._peer == LOCAL  # why something failed is nobody's business on the network
        return description.index(self._service.residents, known, ready=request.ready, reasons=local)

    def repository_model_load(self, request: Any, context: Context) -> Message:
        self._managed(request, ()).load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    def repository_model_unload(self, request: Any, context: Context) -> Message:
        self._managed(request, (_UNLOAD_DEPENDENTS,)).unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    def shared_memory(self, request: Any, context: Context) -> Message:
        raise Unimplemented(_SHARED_MEMORY.message, _SHARED_MEMORY.remedy)

    def settings(self, request: Any, context: Context) -> Message:
        raise Unimplemented(_SETTINGS.message, _SETTINGS.remedy)

    def model_infer(self, message: bytes, context: Context) -> bytes:
        """One inference, bytes to bytes."""

        def begin(own_s: float | None) -> Call:
            call = Call(timeout_of(context, own_s), self._peer)
            if not context.add_callback(call.cancel):
                call.cancel()
            return call

        try:
            return b"".join(self._answering.answer(message, begin))
        except Exception as error:
            statuses.abort(context, error)

    def model_stream_infer(self, incoming: Iterator[bytes], context: Context) -> Iterator[bytes]:
        return self.streams.serve(incoming, context)

    def _statistics(self, name: str, version: str) -> list[ModelStatistics]:
        """Of every version that has answered, or answers now, and fits the names, which may be ""."""
        residents = self._service.residents
        known: tuple[str, ...] = (residents.find(name, version).manifest.name,) if name else residents.names()
        found = {(one.model, one.version): one for one in self._service.statistics.read()}
        for model in known:
            for resident in residents.versions(model):
                found.setdefault((model, resident), ModelStatistics.none(model, resident))
        return [found[key] for key in sorted(found) if name in ("", key[0]) and version in ("", key[1])]

    def _managed(self, request: Any, allowed: tuple[str, ...]) -> Repository:
        """The repository, for those who may ask it."""
        if self._peer != LOCAL:
            raise PermissionDenied(
                "Models are loaded and unloaded on the device's Unix socket only.", "Ask there, or deploy a version."
            )
        if self._repository is None:
            raise Unimplemented("This server has no repository.", "Use the management socket.")
        _one_repository(request.repository_name)
        unknown = next((name for name in request.parameters if name not in allowed), None)
        if unknown is not None:
            raise InvalidInput(
                f"The parameter {unknown[:SHOWN]!r} is not taken.", "A package is loaded as it was signed."
            )
        return self._repository


def handlers(
    protocol: Protocol, health: ThreadPoolExecutor, other: ThreadPoolExecutor, streams: ThreadPoolExecutor
) -> dict[str, Any]:
    """grpc's handlers by verb; inferences run in the server's own pool, what shall not wait for them in these."""
    made = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(protocol.model_infer),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(_in(streams, protocol.model_stream_infer)),
    }
    verbs: dict[str, tuple[Callable[[Any, Context], Message], ThreadPoolExecutor]] = {
        "ServerLive": (protocol.server_live, health),
        "ServerReady": (protocol.server_ready, health),
        "ModelReady": (protocol.model_ready, health),
        "ServerMetadata": (protocol.server_metadata, other),
        "ModelMetadata": (protocol.model_metadata, other),
        "ModelConfig": (protocol.model_config, other),
        "ModelStatistics": (protocol.model_statistics, other),
        "RepositoryIndex": (protocol.repository_index, other),
        "RepositoryModelLoad": (protocol.repository_model_load, other),
        "RepositoryModelUnload": (protocol.repository_model_unload, other),
        "TraceSetting": (protocol.settings, other),
        "LogSettings": (protocol.settings, other),
    }
    for kind in ("System", "Cuda"):
        for what in ("Status", "Register", "Unregister"):
            verbs[f"{kind}SharedMemory{what}"] = (protocol.shared_memory, other)
    for name, (verb, pool) in verbs.items():
        request = getattr(messages, f"{name}Request")
        made[name] = grpc.unary_unary_rpc_method_handler(_in(pool, _unary(verb, request.FromString)))
    return made


def _unary(
    verb: Callable[[Any, Context], Message], read: Callable[[bytes], Message]
) -> Callable[[bytes, Context], bytes]:
    def answer(message: bytes, context: Context) -> bytes:
        try:
            return bytes(verb(_parsed(read, message), context).SerializeToString())
        except Exception as error:
            statuses.abort(context, error)

    return answer


def _parsed(read: Callable[[bytes], Message], message: bytes) -> Message:
    try:
        return read(message)
    except DecodeError:
        raise InvalidInput("The request's bytes are no message of this verb.") from None


def _in(pool: ThreadPoolExecutor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Have grpc run a handler in ``pool``: it looks for this attribute (grpc/_server.py), and ignores it otherwise."""

    def run(request: Any, context: Context) -> Any:
        return behaviour(request, context)

    run.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return run


def _one_repository(name: str) -> None:
    if name:
        raise InvalidInput(f"There is no repository {name[:SHOWN]!r}.", "Leave its name empty: there is one.")

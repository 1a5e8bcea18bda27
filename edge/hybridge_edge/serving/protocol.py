"""The verbs of the protocol, each a line or two over the service, and how the transport is told of them.

A verb takes its request's message and gives its response's; only inferences go as bytes, which ``requests`` and
``responses`` read and write. Errors become statuses in ``statuses``, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from hybridge_edge.contract.errors import HybridgeError, InvalidInput, PermissionDenied, Unimplemented
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.http2.stream import Refusal
from hybridge_edge.http2.verbs import Caller, Lane, Part, Verb
from hybridge_edge.serving import description, statuses
from hybridge_edge.serving.answering import Answering
from hybridge_edge.serving.arrivals import Arrivals
from hybridge_edge.serving.call import LOCAL, begin_for
from hybridge_edge.serving.contents import SHOWN
from hybridge_edge.serving.repository import Repository
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.statistics import ModelStatistics
from hybridge_edge.serving.stream import Streams

NAME = "hybridge"
SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("model_configuration", "model_repository", "statistics")
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

    def server_live(self, request: Any) -> Message:
        return messages.ServerLiveResponse(live=True)

    def server_ready(self, request: Any) -> Message:
        return messages.ServerReadyResponse(ready=self._ready())

    def model_ready(self, request: Any) -> Message:
        versions = self._service.residents.versions(request.name)
        ready = request.version in versions if request.version else bool(versions)
        return messages.ModelReadyResponse(ready=ready)

    def server_metadata(self, request: Any) -> Message:
        return messages.ServerMetadataResponse(name=NAME, version=self._version, extensions=EXTENSIONS)

    def model_metadata(self, request: Any) -> Message:
        residents = self._service.residents
        manifest = residents.find(request.name, request.version).manifest
        return description.metadata(manifest, residents.versions(manifest.name) or [manifest.version])

    def model_config(self, request: Any) -> Message:
        resident = self._service.residents.find(request.name, request.version)
        return messages.ModelConfigResponse(config=description.configuration(resident))

    def model_statistics(self, request: Any) -> Message:
        return messages.ModelStatisticsResponse(
            model_stats=[description.statistics(found) for found in self._statistics(request.name, request.version)]
        )

    def repository_index(self, request: Any) -> Message:
        _one_repository(request.repository_name)
        known = self._repository.index() if self._repository is not None else ()
        local = self._peer == LOCAL  # why something failed is nobody's business on the network
        return description.index(self._service.residents, known, ready=request.ready, reasons=local)

    def repository_model_load(self, request: Any) -> Message:
        self._managed(request, ()).load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    def repository_model_unload(self, request: Any) -> Message:
        self._managed(request, (_UNLOAD_DEPENDENTS,)).unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    def shared_memory(self, request: Any) -> Message:
        raise Unimplemented(_SHARED_MEMORY.message, _SHARED_MEMORY.remedy)

    def settings(self, request: Any) -> Message:
        raise Unimplemented(_SETTINGS.message, _SETTINGS.remedy)

    def model_infer(self, message: bytes, caller: Caller) -> list[Part]:
        """One inference, bytes to bytes."""
        return self._answering.answer(message, begin_for(caller, self._peer))

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


def verbs(protocol: Protocol) -> dict[bytes, Verb]:
    """By path, as a listener takes them."""
    streams = protocol.streams
    made = {
        "ModelInfer": Verb(protocol.model_infer),
        "ModelStreamInfer": Verb(streams.answer, streams=True, opened=_opening(streams), closed=streams.closed),
    }
    plain: dict[str, tuple[Callable[[Any], Message], Lane]] = {
        "ServerLive": (protocol.server_live, Lane.QUICK),
        "ServerReady": (protocol.server_ready, Lane.QUICK),
        "ModelReady": (protocol.model_ready, Lane.QUICK),
        "ServerMetadata": (protocol.server_metadata, Lane.OTHER),
        "ModelMetadata": (protocol.model_metadata, Lane.OTHER),
        "ModelConfig": (protocol.model_config, Lane.OTHER),
        "ModelStatistics": (protocol.model_statistics, Lane.OTHER),
        "RepositoryIndex": (protocol.repository_index, Lane.OTHER),
        "RepositoryModelLoad": (protocol.repository_model_load, Lane.OTHER),
        "RepositoryModelUnload": (protocol.repository_model_unload, Lane.OTHER),
        "TraceSetting": (protocol.settings, Lane.OTHER),
        "LogSettings": (protocol.settings, Lane.OTHER),
    }
    for kind in ("System", "Cuda"):
        for what in ("Status", "Register", "Unregister"):
            plain[f"{kind}SharedMemory{what}"] = (protocol.shared_memory, Lane.OTHER)
    for name, (verb, lane) in plain.items():
        made[name] = Verb(_unary(verb, getattr(messages, f"{name}Request").FromString), lane)
    return {f"/{SERVICE}/{name}".encode(): verb for name, verb in made.items()}


def _opening(streams: Streams) -> Callable[[Caller], None]:
    def opened(caller: Caller) -> None:
        try:
            streams.opened(caller)
        except HybridgeError as error:
            raise Refusal(*statuses.status(error)) from None

    return opened


def _unary(verb: Callable[[Any], Message], read: Callable[[bytes], Message]) -> Callable[[bytes, Caller], list[Part]]:
    def answer(message: bytes, caller: Caller) -> list[Part]:
        try:
            request = read(message)
        except DecodeError:
            raise InvalidInput("The request's bytes are no message of this verb.") from None
        return [bytes(verb(request).SerializeToString())]

    return answer


def _one_repository(name: str) -> None:
    if name:
        raise InvalidInput(f"There is no repository {name[:SHOWN]!r}.", "Leave its name empty: there is one.")

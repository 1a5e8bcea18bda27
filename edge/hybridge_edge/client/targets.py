"""Where the server is: found on the device, or given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge import runtime
from hybridge_edge.contract.errors import Refused
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES

ENDPOINT_VARIABLE = "HYBRIDGE_ENDPOINT"
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
SERVICE = "/inference.GRPCInferenceService/"
_UNIX = "unix:"


def endpoint() -> str:
    """Where this device's server listens: ``HYBRIDGE_ENDPOINT``, else the socket in the runtime folder.

    Raises:
        Unavailable: no server has started here.
    """
    given = os.environ.get(ENDPOINT_VARIABLE)
    return given or runtime.Endpoint.read(runtime.folder()).inference


@dataclass(frozen=True, slots=True)
class Targets:
    """A server's address; ``given`` is "" where this device's own is to be found, anew each time it is asked for."""

    given: str

    def now(self) -> str:
        """The address in grpc's form. Raises Unavailable where none is given and no server has started here."""
        return self.given or endpoint()

    @staticmethod
    def direct(target: str) -> Path | None:
        """The direct socket beside a server's own; None where the server is not reached over its socket's own name."""
        path = Path(target.removeprefix(_UNIX))
        found = target.startswith(_UNIX) and path.name == runtime.INFERENCE_SOCKET
        return path.parent / runtime.DIRECT_SOCKET if found else None

    def management(self) -> Path:
        """The management socket beside the server's own.

        Raises:
            Refused: the server is not on this device. Unavailable: none has started here.
        """
        target = self.now()
        if not target.startswith(_UNIX):
            raise Refused(
                f"{target} is reached over TCP, where labels are not taken.", "Say it on the device, over its sockets."
            )
        return Path(target.removeprefix(_UNIX)).parent / runtime.MANAGEMENT_SOCKET


def quiet_grpc() -> None:
    """Keep grpc's own C++ log out of ours; errors still come back as statuses. Call before grpc first works."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

"""The Open Inference Protocol over gRPC: one server for the device's own programs, one for the network, in one process.

Both listen on Unix sockets; the front brings what comes over TCP to the second (see ``front``). Each has threads and
limits of its own, so that whatever happens on the network takes no thread from the device's own programs, and a few
threads of each answer nothing but health.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from hybridge_edge import runtime
from hybridge_edge.contract.errors import Unavailable
from hybridge_edge.serving import description
from hybridge_edge.serving.answering import Answering
from hybridge_edge.serving.arrivals import Arrivals
from hybridge_edge.serving.call import LOCAL, NETWORK
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES
from hybridge_edge.serving.protocol import SERVICE, Protocol, handlers
from hybridge_edge.serving.repository import Repository
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.threads import Threads

MIN_MESSAGE_BYTES = 16 * 1024 * 1024
"""A message may be as large as this, or as a full batch of the largest model that is loaded at the start, up to
MAX_MESSAGE_BYTES: grpc takes its limit when it starts to listen."""
MESSAGE_ROOM_BYTES = 64 * 1024
"""For what a message holds beside its tensors."""
MAX_CALLS = 512
"""Calls of one transport at once, running or waiting; more are told RESOURCE_EXHAUSTED. Far above what the gate lets
wait, so that what is too much is told so by it, and health still gets in."""
LOCAL_THREADS = 96
"""For single inferences: more than the gate lets wait and run, so that it and nobody else refuses."""
NETWORK_THREADS = 16
"""For the same from the network: what the front lets in of one host. The rest waits before it costs anything."""
ANSWERS_LEAVE_S = 0.05
"""For what a verb has answered already and grpc has not written yet."""
CLOSE_S = 1.0
"""For what is under way once inferences have ended."""
STREAMS = 16
"""Open at once on one transport; each holds a thread."""
HEALTH_THREADS = 2
OTHER_THREADS = 2
LOCAL_CALLS_A_CONNECTION = 128
NETWORK_CALLS_A_CONNECTION = 64
"""HTTP/2 streams of one connection; a client's further calls wait on its side."""
NETWORK_SOCKET_MODE = 0o600
_OTHER_FOLDER = "Remove what lies there, or name another folder with HYBRIDGE_RUNTIME_DIR."
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # two servers on one port must be an error, not a coin
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 30 * 60 * 1000),
    ("grpc.keepalive_time_ms", 60_000),  # who is gone without a word holds no stream for longer
    ("grpc.keepalive_timeout_ms", 20_000),
)


class _Transport:
    """One grpc server with its threads."""

    def __init__(
        self, protocol: Protocol, name: str, threads: int, max_message_bytes: int, calls_a_connection: int
    ) -> None:
        self._streams = protocol.streams
        self._server = grpc.server(
            Threads(threads, f"{name}-infer"),
            options=(
                *_OPTIONS,
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_concurrent_streams", calls_a_connection),
            ),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        verbs = handlers(
            protocol,
            Threads(HEALTH_THREADS, f"{name}-health"),
            Threads(OTHER_THREADS, f"{name}-other"),
            Threads(STREAMS + 1, f"{name}-stream"),  # one tells the next that it is full
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, verbs),))
        self._server.add_registered_method_handlers(SERVICE, verbs)

    def bind(self, socket: Path, mode: int) -> None:
        try:
            bound = self._server.add_insecure_port(f"unix:{socket}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise Unavailable(f"The server cannot listen on {socket}.", _OTHER_FOLDER)
        socket.chmod(mode)

    def start(self) -> None:
        self._server.start()

    def refuse_streams(self) -> None:
        self._streams.refuse()

    def stop(self, grace_s: float) -> Callable[[], None]:
        """Begin to stop; what is returned waits for the end of it."""
        stopped = self._server.stop(grace_s)
        self._streams.stop()
        return lambda: stopped.wait()


class InferenceServer:
    """Listens on a Unix socket for the device's own programs and, where asked to, on another one for the front.

    Args:
        socket: path of the Unix socket, under 107 bytes, in a folder of ours.
        network: path of the socket where the front brings calls from the network, or None.
        ready: whether every model that should be active is.
        repository: what loads and unloads models for callers on the Unix socket; None where nothing does.

    Raises:
        Unavailable: a socket cannot be had.
    """

    def __init__(
        self,
        service: Service,
        socket: Path,
        network: Path | None,
        version: str,
        ready: Callable[[], bool],
        repository: Repository | None = None,
    ) -> None:
        self.max_message_bytes = message_limit(service)
        self.socket = socket
        self.network = network
        self._arrivals = Arrivals()
        self.answering = Answering(service, self._arrivals, LOCAL)
        """For the direct socket, whose calls are counted with the others."""
        self._transports = []
        limit = self.max_message_bytes
        if network is not None:
            protocol = Protocol(service, version, ready, repository, NETWORK, STREAMS, self._arrivals)
            remote = _Transport(protocol, "network", NETWORK_THREADS, limit, NETWORK_CALLS_A_CONNECTION)
            self._transports.append(remote)
            remote.bind(network, NETWORK_SOCKET_MODE)
        protocol = Protocol(service, version, ready, repository, LOCAL, STREAMS, self._arrivals)
        local = _Transport(protocol, "local", LOCAL_THREADS, limit, LOCAL_CALLS_A_CONNECTION)
        self._transports.append(local)
        local.bind(socket, runtime.SOCKET_MODE)

    def start(self) -> None:
        """Answer from now on."""
        for transport in self._transports:
            transport.start()

    def drain(self, grace_s: float) -> None:
        """Take no new inferences, and let running ones end for ``grace_s`` seconds; this process shall end soon.

        What is asked from now on is told UNAVAILABLE, by its verb or, once the process has ended, by the connection's
        end. grpc's own way to stop is not taken: a call that meets it before a thread has taken it up is CANCELLED,
        which says that its caller has withdrawn, and which no caller tries again.
        """
        self._arrivals.close(grace_s)
        for transport in self._transports:
            transport.refuse_streams()
        time.sleep(ANSWERS_LEAVE_S)
        self.socket.unlink(missing_ok=True)

    def stop(self, grace_s: float) -> None:
        """As ``drain``, and then close what is open: for a process that goes on without a server."""
        self._arrivals.close(grace_s)
        for wait in [transport.stop(CLOSE_S) for transport in self._transports]:
            wait()
        self.socket.unlink(missing_ok=True)


def message_limit(service: Service) -> int:
    """Bytes that a message may have, by the models that are loaded now."""
    residents = service.residents
    active = [residents.active(name) for name in residents.names()]
    largest = description.largest_message(one.manifest for one in active if one is not None)
    return min(max(largest + MESSAGE_ROOM_BYTES, MIN_MESSAGE_BYTES), MAX_MESSAGE_BYTES)


def quiet_grpc() -> None:
    """Keep grpc's own C++ log out of ours; errors still come back as statuses. Call before grpc first works."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

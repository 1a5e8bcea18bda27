"""The Open Inference Protocol over gRPC: one server for the Unix socket, one for loopback TCP, in one process.

Each has threads and limits of its own, so that whatever happens on TCP takes no thread from the device's own programs,
and a few threads of each answer nothing but health.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc

from hybridge_edge.contract.errors import Unavailable, UsageError
from hybridge_edge.serving import description
from hybridge_edge.serving.call import LOCAL
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES
from hybridge_edge.serving.protocol import SERVICE, Protocol, handlers
from hybridge_edge.serving.repository import Repository
from hybridge_edge.serving.service import Service

MIN_MESSAGE_BYTES = 16 * 1024 * 1024
"""A message may be as large as this, or as a full batch of the largest model that is loaded at the start, up to
MAX_MESSAGE_BYTES: grpc takes its limit when it starts to listen."""
MESSAGE_ROOM_BYTES = 64 * 1024
"""For what a message holds beside its tensors."""
MAX_CALLS = 512
"""Calls of one transport at once, running or waiting; more are told RESOURCE_EXHAUSTED. Far above what the gate lets
wait, so that what is too much is told so by it, and health still gets in."""
THREADS = 96
"""For single inferences: more than the gate lets wait and run, so that it and nobody else refuses."""
STREAMS = 16
"""Open at once on one transport; each holds a thread."""
HEALTH_THREADS = 2
OTHER_THREADS = 2
LOCAL_CALLS_A_CONNECTION = 128
REMOTE_CALLS_A_CONNECTION = 64
"""HTTP/2 streams of one connection; a client's further calls wait on its side."""
SOCKET_MODE = 0o660
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

    def __init__(self, protocol: Protocol, name: str, max_message_bytes: int, calls_a_connection: int) -> None:
        self._streams = protocol.streams
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix=f"{name}-infer"),
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
            ThreadPoolExecutor(HEALTH_THREADS, thread_name_prefix=f"{name}-health"),
            ThreadPoolExecutor(OTHER_THREADS, thread_name_prefix=f"{name}-other"),
            ThreadPoolExecutor(STREAMS + 1, thread_name_prefix=f"{name}-stream"),  # one tells the next that it is full
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, verbs),))
        self._server.add_registered_method_handlers(SERVICE, verbs)

    def bind(self, address: str, remedy: str) -> int:
        try:
            port: int = self._server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise Unavailable(f"The server cannot listen on {address}.", remedy)
        return port

    def start(self) -> None:
        self._server.start()

    def stop(self, grace_s: float) -> Callable[[], None]:
        """Begin to stop; what is returned waits for the end of it."""
        stopped = self._server.stop(grace_s)
        self._streams.stop()
        return lambda: stopped.wait()


class InferenceServer:
    """Listens on a Unix socket and, where asked to, on loopback TCP.

    Args:
        socket: path of the Unix socket, under 107 bytes, in a folder of ours.
        tcp: HOST:PORT on loopback, port 0 for any, or "" for none.
        ready: whether every model that should be active is.
        repository: what loads and unloads models for callers on the Unix socket; None where nothing does.

    Raises:
        UsageError: ``tcp`` is not on loopback. Unavailable: the port or the socket cannot be had.
    """

    def __init__(
        self,
        service: Service,
        socket: Path,
        tcp: str,
        version: str,
        ready: Callable[[], bool],
        repository: Repository | None = None,
    ) -> None:
        host, port = parse_tcp(tcp) if tcp else ("", 0)
        self.max_message_bytes = message_limit(service)
        self.socket = socket
        self.tcp = ""
        self._transports = []
        if tcp:
            protocol = Protocol(service, version, ready, repository, _host, STREAMS)
            remote = _Transport(protocol, "tcp", self.max_message_bytes, REMOTE_CALLS_A_CONNECTION)
            self._transports.append(remote)
            self.tcp = f"{host}:{remote.bind(f'{host}:{port}', 'Another program uses the port: choose another.')}"
        protocol = Protocol(service, version, ready, repository, lambda context: LOCAL, STREAMS)
        local = _Transport(protocol, "unix", self.max_message_bytes, LOCAL_CALLS_A_CONNECTION)
        self._transports.append(local)
        local.bind(f"unix:{socket}", "Remove what lies there, or name another folder with HYBRIDGE_RUNTIME_DIR.")
        socket.chmod(SOCKET_MODE)

    def start(self) -> None:
        """Answer from now on."""
        for transport in self._transports:
            transport.start()

    def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for ``grace_s`` seconds, then close."""
        for wait in [transport.stop(grace_s) for transport in self._transports]:
            wait()
        self.socket.unlink(missing_ok=True)


def message_limit(service: Service) -> int:
    """Bytes that a message may have, by the models that are loaded now."""
    residents = service.residents
    active = [residents.active(name) for name in residents.names()]
    largest = description.largest_message(one.manifest for one in active if one is not None)
    return min(max(largest + MESSAGE_ROOM_BYTES, MIN_MESSAGE_BYTES), MAX_MESSAGE_BYTES)


def _host(context: Any) -> str:
    """The host of a caller over TCP: grpc names it ipv4:HOST:PORT or, percent-encoded, ipv6:[HOST]:PORT."""
    _, _, rest = str(context.peer()).partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]")


def parse_tcp(text: str) -> tuple[str, int]:
    """HOST:PORT on loopback, or UsageError: beyond it there must be mTLS, which this version does not have."""
    host, _, port = text.rpartition(":")
    try:
        number = int(port)
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        raise UsageError(f"{text!r} is not HOST:PORT.", "Write 127.0.0.1:8001, or leave it empty.") from None
    if not 0 <= number <= 65535:
        raise UsageError(f"{text!r} names no port.", "Write a port from 0 to 65535.")
    if not loopback:
        raise UsageError(
            f"The server does not listen on {text!r}: without TLS it stays on this machine.",
            "Write 127.0.0.1:PORT, or leave it empty.",
        )
    return host, number


def quiet_grpc() -> None:
    """Keep grpc's own C++ log out of ours; errors still come back as statuses. Call before grpc first works."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

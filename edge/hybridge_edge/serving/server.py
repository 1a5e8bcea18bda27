"""The Open Inference Protocol over gRPC: one listener for the device's own programs, one for the network.

Both listen on Unix sockets; the front brings what comes over TCP to the second (see ``front``). Each has threads and
limits of its own, so that whatever happens on the network takes no thread from the device's own programs, and health
is answered by whichever thread is free.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hybridge_edge import runtime
from hybridge_edge.http2.connection import Limits
from hybridge_edge.http2.listener import Listener
from hybridge_edge.serving import description, statuses
from hybridge_edge.serving.answering import Answering
from hybridge_edge.serving.arrivals import Arrivals
from hybridge_edge.serving.call import LOCAL, NETWORK
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES
from hybridge_edge.serving.protocol import Protocol, verbs
from hybridge_edge.serving.repository import Repository
from hybridge_edge.serving.service import Service

MIN_MESSAGE_BYTES = 16 * 1024 * 1024
"""A message may be as large as this, or as a full batch of the largest model that is loaded at the start, up to
MAX_MESSAGE_BYTES."""
MESSAGE_ROOM_BYTES = 64 * 1024
"""For what a message holds beside its tensors."""
LOCAL_THREADS = 96
"""For inferences: more than the gate lets wait and run, so that it and nobody else refuses."""
NETWORK_THREADS = 16
"""For the same from the network: what the front lets in of one host. The rest waits before it costs anything."""
ANSWERS_LEAVE_S = 0.05
"""For what a verb has answered already and the kernel has not taken yet."""
STREAMS = 64
"""Open at once on one transport."""
LOCAL_CALLS_A_CONNECTION = 128
NETWORK_CALLS_A_CONNECTION = 64
"""HTTP/2 streams of one connection; a client's further calls wait on its side."""
BACKLOG = 128
NETWORK_SOCKET_MODE = 0o600


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
        limit = self.max_message_bytes = message_limit(service)
        self.socket = socket
        self.network = network
        self._arrivals = Arrivals()
        self.answering = Answering(service, self._arrivals, LOCAL)
        """For the direct socket, whose calls are counted with the others."""
        self._protocols: list[Protocol] = []
        self._listeners: list[Listener] = []

        def listen(path: Path, mode: int, peer: str, calls: int, threads: int) -> None:
            protocol = Protocol(service, version, ready, repository, peer, STREAMS, self._arrivals)
            self._protocols.append(protocol)
            listening = runtime.listen(path, BACKLOG, mode)
            limits = Limits(limit, calls)
            self._listeners.append(Listener(listening, peer, verbs(protocol), statuses.status, limits, threads))

        if network is not None:
            listen(network, NETWORK_SOCKET_MODE, NETWORK, NETWORK_CALLS_A_CONNECTION, NETWORK_THREADS)
        listen(socket, runtime.SOCKET_MODE, LOCAL, LOCAL_CALLS_A_CONNECTION, LOCAL_THREADS)

    def start(self) -> None:
        """Answer from now on."""
        for listener in self._listeners:
            listener.start()

    def drain(self, grace_s: float) -> None:
        """Take no new inferences, and let running ones end for ``grace_s`` seconds; this process shall end soon.

        What is asked from now on is told UNAVAILABLE, by its verb or, once the process has ended, by the connection's
        end.
        """
        self._arrivals.close(grace_s)
        for protocol in self._protocols:
            protocol.streams.refuse()
        time.sleep(ANSWERS_LEAVE_S)
        self.socket.unlink(missing_ok=True)

    def stop(self, grace_s: float) -> None:
        """As ``drain``, and then close what is open: for a process that goes on without a server."""
        self.drain(grace_s)
        for listener in self._listeners:
            listener.close()


def message_limit(service: Service) -> int:
    """Bytes that a message may have, by the models that are loaded now."""
    residents = service.residents
    active = [residents.active(name) for name in residents.names()]
    largest = description.largest_message(one.manifest for one in active if one is not None)
    return min(max(largest + MESSAGE_ROOM_BYTES, MIN_MESSAGE_BYTES), MAX_MESSAGE_BYTES)

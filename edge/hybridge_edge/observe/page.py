"""``GET /metrics`` on loopback, and nothing else: few connections at once, each one request, each short."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import BoundedSemaphore, Lock, Thread

from hybridge_edge.contract.errors import Unavailable
from hybridge_edge.loopback import parse_tcp

_LOG = logging.getLogger(__name__)
MAX_CONNECTIONS = 4
MAX_REQUEST_BYTES = 8 * 1024
REQUEST_S = 3.0
"""How long a request may take to come, and an answer to go, however it trickles."""
BACKLOG = 16
PATH = "/metrics"
_CLOSE_S = 5.0


class MetricsPage:
    """Serves one page.

    Args:
        tcp: HOST:PORT on loopback, port 0 for any. page: makes the content, called from several threads.

    Raises:
        UsageError: ``tcp`` is not on loopback. Unavailable: the port cannot be had.
    """

    def __init__(self, tcp: str, content_type: str, page: Callable[[], bytes]) -> None:
        host, port = parse_tcp(tcp)
        self._content_type = content_type
        self._page = page
        self._room = BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((host.strip("[]"), port))
            self._listener.listen(BACKLOG)
        except OSError as error:
            self._listener.close()
            raise Unavailable(
                f"Metrics cannot be served on {tcp}: {error.strerror}.",
                "Another program uses the port: choose another.",
            ) from None
        self.tcp = f"{host}:{self._listener.getsockname()[1]}"
        self._thread = Thread(target=self._accept, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(_CLOSE_S)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return  # closed
                time.sleep(0.1)  # no descriptors left: others need the processor
                continue
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            with self._lock:
                self._open.add(connection)
            Thread(target=self._serve, args=(connection,), name="metrics-request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            until = time.monotonic() + REQUEST_S
            status, body = self._answer(_request_line(connection, until))
            connection.settimeout(max(until - time.monotonic(), 0.1))
            connection.sendall(_response(status, self._content_type, body))
            connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            _LOG.debug("a reader of metrics went away: %s", error)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
            self._room.release()

    def _answer(self, line: str) -> tuple[str, bytes]:
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "400 Bad Request", b"This is no HTTP request.\n"
        if words[0] != "GET":
            return "405 Method Not Allowed", b"Only GET is answered here.\n"
        if words[1].split("?")[0] != PATH:
            return "404 Not Found", f"There is {PATH}.\n".encode()
        try:
            return "200 OK", self._page()
        except Exception:
            _LOG.exception("The metrics could not be read")
            return "500 Internal Server Error", b"The metrics could not be read; the log says why.\n"


def _request_line(connection: socket.socket, until: float) -> str:
    """The first line of a request, read to the end of its headers. Raises OSError when it takes too long."""
    data = b""
    while b"\r\n\r\n" not in data and b"\n\n" not in data:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not end")
        connection.settimeout(left)
        more = connection.recv(MAX_REQUEST_BYTES)
        data += more
        if not more or len(data) > MAX_REQUEST_BYTES:
            return ""
    return data.split(b"\n", 1)[0].decode("latin-1").strip()


def _response(status: str, content_type: str, body: bytes) -> bytes:
    allow = "Allow: GET\r\n" if status.startswith("405") else ""
    kind = content_type if status.startswith("200") else "text/plain; charset=utf-8"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + body

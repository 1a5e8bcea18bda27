"""One JSON line there, one JSON line back, over a Unix socket; bounded in length, connections and time."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread

from hybridge_edge import runtime
from hybridge_edge.contract.document import Reader, parse
from hybridge_edge.contract.errors import Refused, Unavailable
from hybridge_edge.contract.handover import MAX_LINE_BYTES

_LOG = logging.getLogger(__name__)
MAX_CONNECTIONS = 16
IDLE_S = 90.0
"""How long a connection may say nothing; longer than the longest answer takes."""
MAX_ANSWER_BYTES = 1024 * 1024
_CLOSE_S = 5.0


def read_answer(answer: bytes) -> Reader:
    """An answer of the management socket, past its ``ok``. Raises Refused with the server's words where it says no."""
    reader = parse(answer, "server's answer", MAX_ANSWER_BYTES)
    if not reader.boolean("ok"):
        raise Refused(reader.text("message"), reader.text("remedy", ""))
    return reader


class LineServer:
    """Answers lines on a Unix socket, a thread a connection.

    Args:
        path: of the socket, under 107 bytes, in a folder of ours; what lies there is replaced.
        answer: takes a line and gives one; never raises. Called from several threads.
    """

    def __init__(self, path: Path, answer: Callable[[bytes], bytes]) -> None:
        self._path = path
        self._answer = answer
        self._room = BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        self._listener = runtime.listen(path, MAX_CONNECTIONS)
        self._thread = Thread(target=self._accept, name="management", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(_CLOSE_S)
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            if not self._room.acquire(blocking=False):
                connection.close()
                continue
            with self._lock:
                self._open.add(connection)
            Thread(target=self._serve, args=(connection,), name="management-line", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(IDLE_S)
            with connection.makefile("rb") as reader:
                while line := reader.readline(MAX_LINE_BYTES + 1):
                    if not line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
                        return
                    connection.sendall(self._answer(line))
        except OSError as error:
            _LOG.info("a management connection ended: %s", error)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
            self._room.release()


def ask(path: Path, line: bytes, timeout_s: float) -> bytes:
    """Send a line to a server and return its answer. Raises Unavailable where none comes in ``timeout_s`` seconds."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(line)
            with connection.makefile("rb") as reader:
                answer = reader.readline(MAX_ANSWER_BYTES)
    except OSError as error:
        raise Unavailable(f"No server answers at {path}: {error}.", "Start it with hybridge-edge serve.") from None
    if not answer.endswith(b"\n"):
        raise Unavailable(f"The server at {path} ended the connection.", "Look at the server's log.")
    return answer

"""Answers on the direct socket: a thread a connection, one request at a time, no thread changed on the way."""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread

from hybridge_edge import runtime
from hybridge_edge.contract.errors import InvalidDocument, InvalidInput
from hybridge_edge.direct.frames import (
    ERROR,
    FRAME_S,
    FULL,
    INFER,
    MAGIC,
    MAP,
    NUMBER,
    UNMAP,
    Ended,
    Frames,
    Part,
    answered,
    read_asked,
    refused,
)
from hybridge_edge.direct.segments import Mapped, Segments
from hybridge_edge.serving import statuses
from hybridge_edge.serving.answering import Answering
from hybridge_edge.serving.call import LOCAL, Call

_LOG = logging.getLogger(__name__)
MAX_CONNECTIONS = 32
"""Each holds a thread; one more is told so, and its client goes over grpc."""
FIRST_WORD_S = 5.0
"""From the connection to MAGIC."""
_NO_ROOM_S = 0.05
"""Where the system gives no descriptor."""
_HUNG_UP = select.EPOLLRDHUP | select.EPOLLET


class _Connection:
    """One client."""

    def __init__(self, accepted: socket.socket, server: DirectServer) -> None:
        self.socket = accepted
        self._server = server
        self._frames = Frames(accepted, server.limit)
        self._segments = Segments(server.mapped)
        self.call: Call | None = None

    def serve(self) -> None:
        """Until the client goes."""
        try:
            self.socket.settimeout(FIRST_WORD_S)
            if self.socket.recv(len(MAGIC), socket.MSG_WAITALL) != MAGIC:
                return
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(FRAME_S), 0))
            while True:
                kind, body, descriptor = self._frames.receive()
                try:
                    said, parts = self._answer(kind, body, descriptor)
                except InvalidDocument:
                    raise
                except Exception as error:
                    code, sentence = statuses.status(error)
                    said, parts = ERROR, refused(code.name, sentence)
                self.call = None
                self._frames.send(said, parts)
        except InvalidDocument as error:  # what follows cannot be told from what was meant
            with suppress(OSError):
                self._frames.send(ERROR, refused("INVALID_ARGUMENT", str(error)))
        except (Ended, OSError):
            pass
        finally:
            self._segments.close()
            self.socket.close()

    def hung_up(self) -> None:
        call = self.call
        if call is not None:
            call.cancel()

    def _answer(self, kind: int, body: bytes, descriptor: int | None) -> tuple[int, list[Part]]:
        if kind == MAP:
            return MAP, [NUMBER.pack(self._segments.add(descriptor))]
        if descriptor is not None:
            self._segments.refuse(descriptor)
        if kind == UNMAP and len(body) == NUMBER.size:
            self._segments.remove(NUMBER.unpack(body)[0])
            return UNMAP, []
        if kind != INFER:
            raise InvalidDocument(f"A frame of kind {kind} came.", "See docs/direct.md.")
        places, room, message = read_asked(body)
        if room.segment:
            self._segments.check(room)
        if len({place.tensor for place in places}) != len(places):
            raise InvalidInput("An input is placed twice.", "Place each once.")
        if sum(place.size for place in places) + len(body) > self._server.limit:
            raise InvalidInput("The request's tensors are too large.", f"Send at most {self._server.limit} bytes.")
        beside = {place.tensor: self._segments.read(place) for place in places}
        parts, aside = self._server.answering.placed(message, self._begin, beside, room.size if room.segment else 0)
        return INFER, answered(self._segments.write(room, aside) if aside else [], parts)

    def _begin(self, own_s: float | None) -> Call:
        call = self.call = Call(own_s, LOCAL)
        return call


class DirectServer:
    """Listens on a Unix socket for the device's own programs.

    Args:
        path: of the socket, under 107 bytes, in a folder of ours; what lies there is replaced. limit: bytes of a frame.

    Raises:
        Unavailable: the socket cannot be had.
    """

    def __init__(self, path: Path, answering: Answering, limit: int) -> None:
        self.answering = answering
        self.limit = limit
        self.mapped = Mapped()
        self._path = path
        self._lock = Lock()
        self._open: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._listener = runtime.listen(path, MAX_CONNECTIONS)

    def start(self) -> None:
        """Answer from now on."""
        self._thread("direct", self._accept)
        self._thread("direct-watch", self._watch)

    def stop(self) -> None:
        """Take no new connection, and end those on which nothing is asked now; the others end with their answer."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        with self._lock:
            for connection in self._open.values():
                if connection.call is None:
                    with suppress(OSError):
                        connection.socket.shutdown(socket.SHUT_RD)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                time.sleep(_NO_ROOM_S)
                continue
            connection = _Connection(accepted, self)
            with self._lock:
                room = len(self._open) < MAX_CONNECTIONS
                if room:
                    self._open[accepted.fileno()] = connection
            if not room or not self._thread("direct-infer", partial(self._serve, connection)):
                self._turn_away(connection)

    def _serve(self, connection: _Connection) -> None:
        descriptor = connection.socket.fileno()
        try:
            with suppress(OSError):
                self._epoll.register(descriptor, _HUNG_UP)
            connection.serve()
        finally:
            self._forget(descriptor, connection)

    def _forget(self, descriptor: int, connection: _Connection) -> None:
        """Its number may be another connection's by now."""
        with self._lock:
            if self._open.get(descriptor) is connection:
                del self._open[descriptor]

    def _turn_away(self, connection: _Connection) -> None:
        descriptor = connection.socket.fileno()
        with suppress(OSError):
            Frames(connection.socket, 0).send(FULL, [])
        connection.socket.close()
        self._forget(descriptor, connection)

    def _watch(self) -> None:
        """Hear of clients that go while they wait: nobody reads their connection then."""
        while True:
            for descriptor, _ in self._epoll.poll():
                with self._lock:
                    connection = self._open.get(descriptor)
                if connection is not None:
                    connection.hung_up()

    def _thread(self, name: str, run: Callable[[], None]) -> bool:
        """Whether there was a thread to be had."""
        try:
            Thread(target=run, name=name, daemon=True).start()
        except RuntimeError as error:
            _LOG.error("No thread for %s: %s", name, error)
            return False
        return True

"""Carries bytes between connections from the network and the server's socket, and holds back what is too much.

A host that asks for more than its budget, or has too many calls in flight, is not refused and not cut off: its
connection is simply not read for a while, and TCP tells it to slow down. What it sent meanwhile lies in a small
buffer of the kernel and costs nobody anything.

One thread, one selector, no lock.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from contextlib import suppress
from pathlib import Path

from hybridge_edge.front.frames import END_STREAM, HEADER, HEADERS, RST_STREAM, Frames, cost
from hybridge_edge.front.hosts import MAX_CALLS_OF_HOST, Host, Hosts

_LOG = logging.getLogger(__name__)
CHUNK_BYTES = 64 * 1024
RECEIVE_BUFFER_BYTES = 128 * 1024
"""Of a connection from the network, in the kernel: what lies there when somebody is held back."""
MAX_PENDING_BYTES = 256 * 1024
"""Read from one side and not yet taken by the other."""
OPENING_S = 10.0
"""From the connection to its first frame."""
FRAME_S = 30.0
"""From the first byte of a frame to its last."""
CALL_WAIT_S = 1.0
"""How long a call waits for another one of its host to end: what is held back with it may be what that one needs."""
TICK_S = 0.05
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
_BROKEN = select.EPOLLERR | select.EPOLLHUP


class _Connection:
    """A client and its way to the server. ``side`` 0 is the client, 1 the server."""

    def __init__(self, client: socket.socket, server: socket.socket, host: Host) -> None:
        self.host = host
        self.sockets = (client, server)
        self.watched = [0, 0]
        """What the kernel is asked to say of each side."""
        self.pending = [bytearray(), bytearray()]
        """To be written to that side."""
        self.ended = [False, False]
        """That side will say nothing more."""
        self.held = b""
        """From the client, read and not let in yet."""
        self.open_calls: set[int] = set()
        self.waiting_since = 0.0
        self.half_since = self.opened = time.monotonic()
        self.begun = False
        self.frames = (Frames(self._admit, client=True), Frames(self._answered, client=False))

    def _admit(self, kind: int, flags: int, stream: int, length: int) -> bool:
        now = time.monotonic()
        opens = kind == HEADERS and stream not in self.open_calls
        if opens and self.host.calls >= MAX_CALLS_OF_HOST:
            self.waiting_since = self.waiting_since or now
            if now - self.waiting_since < CALL_WAIT_S:
                return False
        if not self.host.spend(cost(kind, length), now):
            return False
        self.begun, self.waiting_since = True, 0.0
        if opens:
            self.open_calls.add(stream)
            self.host.calls += 1
        elif kind == RST_STREAM:
            self._closed(stream)
        return True

    def _answered(self, kind: int, flags: int, stream: int, length: int) -> bool:
        if kind == RST_STREAM or (kind <= HEADERS and flags & END_STREAM):
            self._closed(stream)
        return True

    def _closed(self, stream: int) -> None:
        if stream in self.open_calls:
            self.open_calls.discard(stream)
            self.host.calls -= 1

    def is_late(self, now: float, *, held: bool) -> bool:
        """Whether it has taken too long to begin, or in the middle of a frame, and not because we hold it back."""
        if not self.begun:
            return now - self.opened > OPENING_S
        if held or (self.frames[0].between and not self.held):
            self.half_since = now
        return now - self.half_since > FRAME_S


class Relay:
    """Listens until closed.

    Args:
        listener: bound and listening on TCP. server: path of the Unix socket behind it.
    """

    def __init__(self, listener: socket.socket, server: Path) -> None:
        self._listener = listener
        self._server = str(server)
        self._epoll = select.epoll()
        self._sides: dict[int, tuple[_Connection, int]] = {}
        """By descriptor. Without the selectors module: it costs a tenth of what a call costs here."""
        self._hosts = Hosts()
        self._connections: set[_Connection] = set()
        self._held: set[_Connection] = set()
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._epoll.register(listener, _READ)

    def run(self, until: socket.socket | int) -> None:
        """Carry, until ``until`` becomes readable or ends."""
        stop = until if isinstance(until, int) else until.fileno()
        self._epoll.register(stop, _READ)
        listener, sides = self._listener.fileno(), self._sides
        looked = time.monotonic()
        while True:
            for descriptor, events in self._epoll.poll(TICK_S if self._held else 1.0):
                found = sides.get(descriptor)
                if found is not None:
                    self._serve(*found, events)
                elif descriptor == listener:
                    self._accept()
                elif descriptor == stop:
                    return
            if self._held:
                for connection in tuple(self._held):
                    self._let_in(connection, b"")
            now = time.monotonic()
            if now - looked > 1.0:
                looked = now
                for connection in tuple(self._connections):
                    if connection.is_late(now, held=connection in self._held):
                        self._close(connection)

    def close(self) -> None:
        for connection in tuple(self._connections):
            self._close(connection)
        self._epoll.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError as error:  # gone already, or no descriptor left: the next one may have more luck
            _LOG.warning("A connection could not be taken: %s", error)
            time.sleep(0.01)
            return
        host = self._hosts.enter(str(address[0]), time.monotonic())
        if host is None:
            client.close()
            return
        server = None
        try:
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.setblocking(False)
            server.connect(self._server)
        except OSError:  # the server starts or stops: the caller is told that it is unavailable, and tries again
            self._hosts.leave(host)
            client.close()
            if server is not None:
                server.close()
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, server, host)
        self._connections.add(connection)
        for side in (0, 1):
            self._sides[connection.sockets[side].fileno()] = connection, side
            self._ask(connection, side, _READ)

    def _serve(self, connection: _Connection, side: int, events: int) -> None:
        watched = connection.watched[side]
        if events & _BROKEN:  # said whether asked for or not; what to do about it is found by reading or writing
            events |= watched or _READ
        if events & watched & _WRITE:
            self._write(connection, side)
        if events & _READ and connection in self._connections:
            self._read(connection, side)

    def _read(self, connection: _Connection, side: int) -> None:
        try:
            data = connection.sockets[side].recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if not data:
            connection.ended[side] = True
            if side == 1 or not connection.held:
                self._end(connection, side)
        elif side == 0:
            self._let_in(connection, data)
        else:
            connection.frames[1].pass_on(data)
            self._send(connection, 0, data)

    def _let_in(self, connection: _Connection, data: bytes) -> None:
        """From the client: as much as may pass now; the rest is held, and nothing more is read until it has."""
        was_held = connection in self._held
        data = connection.held + data if data else connection.held
        try:
            passed = connection.frames[0].pass_on(data)
        except ValueError:
            self._close(connection)
            return
        connection.held = data[passed:] if passed else data
        # A few bytes of a frame's beginning are no reason to stop reading: the rest of them is what is missing.
        if len(connection.held) >= HEADER:
            self._held.add(connection)
        else:
            self._held.discard(connection)
        if passed:
            self._send(connection, 1, data[:passed])
        if connection in self._connections:
            if was_held != (connection in self._held):
                self._watch(connection, 0)
            if connection.ended[0] and connection not in self._held:
                self._end(connection, 0)

    def _send(self, connection: _Connection, side: int, data: bytes) -> None:
        pending = connection.pending[side]
        if not pending:
            try:
                sent = connection.sockets[side].send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._close(connection)
                return
            if sent == len(data):
                return
            data = data[sent:]
        pending += data
        self._watch(connection, side)
        self._watch(connection, 1 - side)

    def _write(self, connection: _Connection, side: int) -> None:
        pending = connection.pending[side]
        try:
            del pending[: connection.sockets[side].send(pending)]
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if not pending and connection.ended[1 - side]:
            self._end(connection, 1 - side)
            return
        self._watch(connection, side)
        self._watch(connection, 1 - side)

    def _watch(self, connection: _Connection, side: int) -> None:
        """Read where there is room for what comes, write where something waits."""
        reads = not connection.ended[side] and len(connection.pending[1 - side]) < MAX_PENDING_BYTES
        if side == 0 and connection in self._held:
            reads = False
        wanted = (_READ if reads else 0) | (_WRITE if connection.pending[side] else 0)
        if wanted != connection.watched[side]:
            self._ask(connection, side, wanted)

    def _ask(self, connection: _Connection, side: int, wanted: int) -> None:
        """Have the kernel say ``wanted`` of a side, 0 for nothing: then not even that it is broken."""
        one, known = connection.sockets[side], connection.watched[side]
        if not known:
            self._epoll.register(one, wanted)
        elif not wanted:
            self._epoll.unregister(one)
        else:
            self._epoll.modify(one, wanted)
        connection.watched[side] = wanted

    def _end(self, connection: _Connection, side: int) -> None:
        """A side has said its last word: the other one hears it once everything before it is written."""
        if connection.pending[1 - side]:
            self._watch(connection, side)
            return
        if connection.ended[1 - side]:
            self._close(connection)
            return
        with suppress(OSError):
            connection.sockets[1 - side].shutdown(socket.SHUT_WR)
        self._watch(connection, side)

    def _close(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._held.discard(connection)
        for side, one in enumerate(connection.sockets):
            del self._sides[one.fileno()]
            if connection.watched[side]:
                self._ask(connection, side, 0)
            one.close()
        connection.host.calls -= len(connection.open_calls)
        self._hosts.leave(connection.host)

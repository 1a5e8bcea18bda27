"""Carries bytes between connections from the network and the server's socket, and holds back what is too much.

A host that asks for more than its budget, or has too many calls in flight, is not refused and not cut off: its
connection is simply not read for a while, and TCP tells it to slow down. What it sent meanwhile lies in a small
buffer of the kernel and costs nobody anything. Where TLS is set, a client is let in by its certificate first, and
everything here is about the plain bytes inside.

One thread, one selector, no lock.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hybridge_edge.front.connection import LEFT_S, Connection
from hybridge_edge.front.hosts import Host, Hosts
from hybridge_edge.http2.frames import HEADER, goaway

if TYPE_CHECKING:  # with hashlib and ssl: who has no TLS does without
    from hybridge_edge.front.allowed import Peer
    from hybridge_edge.front.guests import Guests
    from hybridge_edge.front.tls import Session

_LOG = logging.getLogger(__name__)
CHUNK_BYTES = 64 * 1024
RECEIVE_BUFFER_BYTES = 128 * 1024
"""Of a connection from the network, in the kernel: what lies there when somebody is held back."""
MAX_PENDING_BYTES = 256 * 1024
"""Read from one side and not yet taken by the other."""
RECORD_COST = 1
"""Of a record of TLS, from the host's budget, once it has come."""
TICK_S = 0.05
SWEEP_S = 1.0
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
_BROKEN = select.EPOLLERR | select.EPOLLHUP


class Relay:
    """Listens until closed.

    Args:
        listener: bound and listening on TCP. server: path of the Unix socket behind it. guests: who may come, and how
            long they may stay; None where everybody may, without TLS.
    """

    def __init__(self, listener: socket.socket, server: Path, guests: Guests | None = None) -> None:
        self._listener = listener
        self._server = str(server)
        self._epoll = select.epoll()
        self._sides: dict[int, tuple[Connection, int]] = {}
        """By descriptor. Without the selectors module: it costs a tenth of what a call costs here."""
        self._hosts = Hosts()
        self._connections: set[Connection] = set()
        self._held: set[Connection] = set()
        self._guests = guests
        self._handshakes = guests.handshakes(self._epoll) if guests is not None else None
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._epoll.register(listener, _READ)

    def run(self, until: socket.socket | int) -> None:
        """Carry, until ``until`` becomes readable or ends."""
        stop = until if isinstance(until, int) else until.fileno()
        self._epoll.register(stop, _READ)
        listener, sides, handshakes = self._listener.fileno(), self._sides, self._handshakes
        looked = time.monotonic()
        while True:
            every = SWEEP_S if self._guests is None else min(SWEEP_S, self._guests.look_s)
            for descriptor, events in self._epoll.poll(
                TICK_S if self._held or (handshakes and handshakes.waiting) else every
            ):
                found = sides.get(descriptor)
                if found is not None:
                    self._serve(*found, events)
                elif descriptor == listener:
                    self._accept()
                elif descriptor == stop:
                    return
                elif handshakes is not None and descriptor in handshakes:
                    self._greet(descriptor)
            if self._held:
                for connection in tuple(self._held):
                    self._let_in(connection, b"")
            now = time.monotonic()
            if handshakes is not None and handshakes.waiting:
                handshakes.begin_waiting(now)
            if self._guests is not None and self._guests.look(now):
                self._judge_again()
            if now - looked > every:
                looked = now
                self._sweep(now)

    def close(self) -> None:
        for connection in tuple(self._connections):
            self._close(connection)
        if self._handshakes is not None:
            self._handshakes.close()
        self._epoll.close()
        self._listener.close()

    def _sweep(self, now: float) -> None:
        """End what has taken too long."""
        for connection in tuple(self._connections):
            if connection.is_late(now, held=connection in self._held):
                self._close(connection)
        if self._guests is None or self._handshakes is None:
            return
        for host in self._handshakes.late(now):
            self._hosts.leave(host)
        wall = time.time()
        for connection in tuple(self._connections):
            if connection.left_at:
                if now - connection.left_at > LEFT_S:
                    self._close(connection)
            elif connection.leaving_since:
                if connection.may_leave(now):
                    self._say_last(connection, now)
            elif connection.is_over_age(now, wall, self._guests.authorities):
                self._guests.renewed += 1
                connection.ask_to_leave(now)
                self._say_word(connection)
        self._guests.tell(len(self._connections))

    def _judge_again(self) -> None:
        """Other files are in force: who would not be let in any more has no connection any more."""
        assert self._guests is not None
        for connection in tuple(self._connections):
            if connection.peer is not None and self._guests.refusal(connection.peer):
                self._guests.cut += 1
                _LOG.warning("The connection of %s is closed: it may not come any more.", connection.peer)
                self._close(connection)

    def _accept(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError as error:  # gone already, or no descriptor left: the next one may have more luck
            _LOG.warning("A connection could not be taken: %s", error)
            time.sleep(0.01)
            return
        now = time.monotonic()
        host = self._hosts.enter(str(address[0]), now)
        if host is None:
            client.close()
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._handshakes is None:
            self._join(client, host)
        elif not self._handshakes.come(client, str(address[0]), host, now):
            self._hosts.leave(host)
            client.close()

    def _greet(self, descriptor: int) -> None:
        """Go on with a handshake; who has done it gets a way to the server."""
        assert self._handshakes is not None
        found = self._handshakes.serve(descriptor)
        if isinstance(found, Host):
            self._hosts.leave(found)
        elif found is not None:
            connection = self._join(found.client, found.host, found.session, found.peer)
            if connection is not None:
                self._put(connection, 0, found.unsent)
            if connection is not None and connection in self._connections:
                self._open(connection, b"")  # what came behind the handshake's last word

    def _join(
        self, client: socket.socket, host: Host, session: Session | None = None, peer: Peer | None = None
    ) -> Connection | None:
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
            return None
        connection = Connection(client, server, host, session, peer)
        self._connections.add(connection)
        for side in (0, 1):
            self._sides[connection.sockets[side].fileno()] = connection, side
            self._ask(connection, side, _READ)
        return connection

    def _serve(self, connection: Connection, side: int, events: int) -> None:
        watched = connection.watched[side]
        if events & _BROKEN:  # said whether asked for or not; what to do about it is found by reading or writing
            events |= watched or _READ
        if events & watched & _WRITE:
            self._write(connection, side)
        if events & _READ and connection in self._connections:
            self._read(connection, side)

    def _read(self, connection: Connection, side: int) -> None:
        try:
            data = connection.sockets[side].recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if connection.left_at:  # what comes now is nobody's any more
            if not data:
                self._close(connection)
        elif not data:
            self._said_all(connection, side)
        elif side == 1:
            connection.frames[1].pass_on(data)
            self._send(connection, 0, connection.with_word(data) if connection.word else data)
        elif connection.session is None:
            self._let_in(connection, data)
        else:
            self._open(connection, data)

    def _said_all(self, connection: Connection, side: int) -> None:
        connection.ended[side] = True
        if side == 1 or not connection.held:
            self._end(connection, side)

    def _open(self, connection: Connection, raw: bytes) -> None:
        """From a client behind TLS."""
        session, host = connection.session, connection.host
        assert session is not None
        records = session.records(raw)
        if records:  # also those with nothing in them, which cost us all the same
            host.owe(records * RECORD_COST, time.monotonic())
        try:
            data = session.open(raw)
        except ValueError:
            self._close(connection)
            return
        if answer := session.outgoing():
            self._put(connection, 0, answer)
        if connection in self._connections and (data or host.budget < 0):
            self._let_in(connection, data)
        if session.ended and connection in self._connections and not connection.ended[0]:
            self._said_all(connection, 0)

    def _let_in(self, connection: Connection, data: bytes) -> None:
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
        # And a debt is paid before more is read.
        if len(connection.held) >= HEADER or (connection.host.budget < 0 and connection.host.in_debt(time.monotonic())):
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

    def _send(self, connection: Connection, side: int, data: bytes) -> None:
        """Plain bytes, to be written to a side."""
        if side == 0 and connection.session is not None:
            try:
                data = connection.session.seal(data)
            except ValueError:
                self._close(connection)
                return
        self._put(connection, side, data)

    def _put(self, connection: Connection, side: int, data: bytes) -> None:
        """Bytes as the socket takes them."""
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

    def _write(self, connection: Connection, side: int) -> None:
        pending = connection.pending[side]
        try:
            del pending[: connection.sockets[side].send(pending)]
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if not pending and connection.ended[1 - side] and not connection.left_at:
            self._end(connection, 1 - side)
            return
        self._watch(connection, side)
        self._watch(connection, 1 - side)

    def _watch(self, connection: Connection, side: int) -> None:
        """Read where there is room for what comes, write where something waits."""
        reads = not connection.ended[side] and len(connection.pending[1 - side]) < MAX_PENDING_BYTES
        if side == 0 and connection in self._held:
            reads = False
        wanted = (_READ if reads else 0) | (_WRITE if connection.pending[side] else 0)
        if wanted != connection.watched[side]:
            self._ask(connection, side, wanted)

    def _ask(self, connection: Connection, side: int, wanted: int) -> None:
        """Have the kernel say ``wanted`` of a side, 0 for nothing: then not even that it is broken."""
        one, known = connection.sockets[side], connection.watched[side]
        if not known:
            self._epoll.register(one, wanted)
        elif not wanted:
            self._epoll.unregister(one)
        else:
            self._epoll.modify(one, wanted)
        connection.watched[side] = wanted

    def _end(self, connection: Connection, side: int) -> None:
        """A side has said its last word: the other one hears it once everything before it is written."""
        if connection.pending[1 - side]:
            self._watch(connection, side)
            return
        if connection.ended[1 - side]:
            self._close(connection)
            return
        if side == 1 and connection.session is not None and not connection.closed:
            connection.closed = True
            self._put(connection, 0, connection.session.close())
            if connection not in self._connections or connection.pending[0]:
                return  # once that is written this is asked again
        with suppress(OSError):
            connection.sockets[1 - side].shutdown(socket.SHUT_WR)
        self._watch(connection, side)

    def _say_word(self, connection: Connection) -> None:
        """Now, where the server says nothing in this moment; else it goes out with what it says next."""
        if connection.word and connection.frames[1].may_interrupt:
            word, connection.word = connection.word, b""
            self._send(connection, 0, word)

    def _say_last(self, connection: Connection, now: float) -> None:
        """Which calls were the last ones here, and the end of TLS; what comes after that is not let in.

        A client that had begun another one meanwhile knows by it that it may begin it again elsewhere.
        """
        connection.word = goaway(connection.last_stream)
        self._say_word(connection)
        if connection not in self._connections:
            return
        if connection.session is not None and not connection.closed:
            connection.closed = True
            self._put(connection, 0, connection.session.close())
        connection.left_at, connection.held = now, b""
        if connection in self._connections:
            self._held.discard(connection)
            self._watch(connection, 0)

    def _close(self, connection: Connection) -> None:
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

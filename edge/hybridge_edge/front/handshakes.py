"""Clients who have come and not shown yet who they are: few at once, fewer of one host, and not for long."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field

from hybridge_edge.front.allowed import Peer
from hybridge_edge.front.hosts import Host
from hybridge_edge.front.rotation import Rotation
from hybridge_edge.front.tls import Session, result_of
from hybridge_edge.front.tls_status import RESULTS

_LOG = logging.getLogger(__name__)
MAX_HANDSHAKES = 32
MAX_HANDSHAKES_OF_HOST = 8
HANDSHAKE_COST = 200
"""Of a host's budget: a hundred a second at most. Who has no more waits, as everything of a host does here."""
READ_BYTES = 16 * 1024
SAY_S = 5.0
"""Between two lines in the log about somebody who was not let in."""


@dataclass(slots=True, eq=False)
class Handshake:
    """One client; ``pending`` is what is to be sent to it, ``until`` when it must be done."""

    client: socket.socket
    address: str
    host: Host
    session: Session
    until: float
    pending: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Guest:
    """Who was let in."""

    client: socket.socket
    host: Host
    session: Session
    peer: Peer
    unsent: bytes


class Handshakes:
    """All that are under way, on the front's epoll."""

    def __init__(self, epoll: select.epoll, rotation: Rotation) -> None:
        self._epoll = epoll
        self._rotation = rotation
        self._open: dict[int, Handshake] = {}
        self._waiting: list[Handshake] = []
        """Come, and not read yet; no more than there may be connections."""
        self._said_at = 0.0
        self.results = dict.fromkeys(RESULTS, 0)

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._open

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for a turn: ``begin_waiting`` wants to be called."""
        return bool(self._waiting)

    def come(self, client: socket.socket, address: str, host: Host, now: float) -> bool:
        """Somebody has just come; where there is nothing to show, the caller closes the connection."""
        credentials = self._rotation.current
        if credentials is None:
            self._count("not-ready", address)
            return False
        until = now + credentials.settings.handshake_s
        self._waiting.append(Handshake(client, address, host, Session(credentials), until))
        self.begin_waiting(now)
        return True

    def begin_waiting(self, now: float) -> None:
        """Begin the handshakes for which there is room, and that their hosts can pay for."""
        left = []
        for one in self._waiting:
            room = len(self._open) < MAX_HANDSHAKES and one.host.handshakes < MAX_HANDSHAKES_OF_HOST
            if not (room and one.host.spend(HANDSHAKE_COST, now)):
                left.append(one)
                continue
            one.host.handshakes += 1
            self._open[one.client.fileno()] = one
            self._epoll.register(one.client, select.EPOLLIN)
        self._waiting = left

    def serve(self, descriptor: int) -> Guest | Host | None:
        """Go on with one. Who was let in; the host of one that has failed and is closed; None where it goes on."""
        one = self._open[descriptor]
        try:
            if one.pending:
                self._send(one)
            raw = one.client.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return self._fail(one, "gone")
        if not raw:
            return self._fail(one, "gone")
        try:
            done = one.session.shake(raw)
        except ssl.SSLError as error:
            return self._fail(one, result_of(error))
        one.pending += one.session.outgoing()
        if not done:
            try:
                self._send(one)
            except OSError:
                return self._fail(one, "gone")
            return None
        return self._judge(one)

    def late(self, now: float) -> list[Host]:
        """End those that have taken too long; their hosts."""
        found = [self._fail(one, "timed-out") for one in tuple(self._open.values()) if now > one.until]
        for one in [one for one in self._waiting if now > one.until]:
            self._count("too-many", one.address)
            self._waiting.remove(one)
            one.client.close()
            found.append(one.host)
        return found

    def close(self) -> None:
        for one in tuple(self._open.values()):
            self._let_go(one)
            one.client.close()
        for one in self._waiting:
            one.client.close()

    def _judge(self, one: Handshake) -> Guest | Host:
        current = self._rotation.current
        assert current is not None
        if not one.session.speaks:
            return self._fail(one, "no-h2")
        try:
            peer = one.session.peer()
        except ValueError:  # names that are no text: nobody on the list
            return self._fail(one, "not-allowed", "a certificate that cannot be read")
        # By the lists of now: they may have changed while the handshake took its time. And by the date: where a session
        # of TLS 1.2 is resumed, nobody else looks at it.
        refusal = current.allowed.refusal(peer, time.time())
        if refusal:
            return self._fail(one, refusal, f"certificate {peer.fingerprint} of {peer}")
        self.results["ok"] += 1
        self._let_go(one)
        return Guest(one.client, one.host, one.session, peer, bytes(one.pending))

    def _send(self, one: Handshake) -> None:
        if one.pending:
            with suppress(BlockingIOError):
                del one.pending[: one.client.send(one.pending)]
        self._epoll.modify(one.client, select.EPOLLIN | (select.EPOLLOUT if one.pending else 0))

    def _let_go(self, one: Handshake) -> None:
        del self._open[one.client.fileno()]
        one.host.handshakes -= 1
        self._epoll.unregister(one.client)

    def _fail(self, one: Handshake, result: str, who: str = "") -> Host:
        self._count(result, one.address, who)
        self._let_go(one)
        with suppress(OSError):  # the alert that says why, where it can be said
            one.client.send(bytes(one.pending) + one.session.outgoing())
            one.client.shutdown(socket.SHUT_WR)
        one.client.close()
        return one.host

    def _count(self, result: str, address: str, who: str = "") -> None:
        self.results[result] += 1
        now = time.monotonic()
        if result != "gone" and now - self._said_at > SAY_S:
            self._said_at = now
            _LOG.warning("A client at %s is not let in: %s%s.", address, result, f", {who}" if who else "")

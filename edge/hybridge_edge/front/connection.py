"""One client of the network and its way to the server: what passes, what is under way, and how it ends."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from hybridge_edge.front.frames import Frames, cost
from hybridge_edge.front.hosts import MAX_CALLS_OF_HOST, Host
from hybridge_edge.http2.frames import END_STREAM, HEADERS, LARGEST_STREAM, RST_STREAM, goaway

if TYPE_CHECKING:
    from hybridge_edge.front.allowed import Peer
    from hybridge_edge.front.tls import Session

OPENING_S = 10.0
"""From the connection to its first frame."""
FRAME_S = 30.0
"""From the first byte of a frame to its last."""
CALL_WAIT_S = 1.0
"""How long a call waits for another one of its host to end: what is held back with it may be what that one needs."""
LINGER_S = 1.0
"""From the word that a connection ends to its end, where no call is under way: time to hear it."""
DRAIN_S = 60.0
"""The same where calls go on: a stream may never end."""
LEFT_S = 2.0
"""From the last word to the end of the connection, where the client does not end it."""


class Connection:
    """A client and its way to the server. ``side`` 0 is the client, 1 the server."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        host: Host,
        session: Session | None = None,
        peer: Peer | None = None,
    ) -> None:
        self.host = host
        self.session = session
        """Of TLS, None where there is none; ``peer`` is who showed what certificate."""
        self.peer = peer
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
        self.last_stream = 0
        """The newest that the client has begun."""
        self.word = b""
        """A frame of ours that waits for its place between two of the server's."""
        self.leaving_since = 0.0
        """When the client was asked to come again on another connection, 0 for not."""
        self.closed = False
        """Whether TLS has said its last word here."""
        self.left_at = 0.0
        """When it was told the last word, 0 for not."""
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
        if kind == HEADERS and stream > self.last_stream:
            self.last_stream = stream
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

    def with_word(self, data: bytes) -> bytes:
        """The server's bytes, which have just passed ``frames``, and the word in them where there is a place for it."""
        border = self.frames[1].border
        if not self.word or border < 0:
            return data
        word, self.word = self.word, b""
        return data[:border] + word + data[border:]

    def ask_to_leave(self, now: float) -> None:
        """Have the client use another connection for its next calls; those it has here go on."""
        self.leaving_since = now
        self.word = goaway(LARGEST_STREAM)

    def may_leave(self, now: float) -> bool:
        """Whether it may be told the last word: nothing goes on here, and it has had time to hear, or too much."""
        waited = now - self.leaving_since
        idle = not (self.open_calls or self.held or self.pending[0] or self.pending[1] or self.word)
        return waited > DRAIN_S or (idle and waited > LINGER_S)

    def is_over_age(self, now: float, wall: float, authorities: str) -> bool:
        """Whether what it was let in by has an end: its time, its certificate, or the authorities it came by."""
        if self.session is None or self.peer is None:
            return False
        credentials = self.session.credentials
        over = now - self.opened > credentials.settings.connection_s or wall > self.peer.not_after
        return over or credentials.authorities != authorities

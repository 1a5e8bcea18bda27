"""A connection with its socket: reads as much as is asked for, writes what the other side takes, keeps the rest."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from hybridge_edge.http2.connection import Connection, Limits
from hybridge_edge.http2.stream import Stream
from hybridge_edge.http2.verbs import Part, Verb

READ_BYTES = 16 * 1024
LARGE_READ_BYTES = 1024 * 1024
MAX_READS = 16
"""Of one connection before others get a turn, while the rest of a large message is still to come."""
MAX_PENDING_BYTES = 1024 * 1024
"""Of answers that the other side does not take; with more of them nothing is read from it."""
MAX_PIECES = 256
"""Handed to the kernel in one call; it takes 1024 (IOV_MAX)."""
_IN, _OUT, _SHOT = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT, select.EPOLLONESHOT
_NEWS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Channel:
    """One accepted socket. ``hear`` is for the thread that holds it, from ``take`` to ``give``.

    Attributes:
        ended: nothing more comes of it. heard_at: when the other side last said anything, in monotonic seconds.
        whole_at: when it last had sent nothing in part, or more frames than ``taken``. taken_at: when it last took
            something of ours. asked_at: when we asked whether it is there, 0 where we have not.
    """

    def __init__(
        self,
        accepted: socket.socket,
        epoll: select.epoll,
        verbs: Mapping[bytes, Verb],
        limits: Limits,
        reserve: Callable[[Stream, int], int],
        release: Callable[[Stream, int], None],
    ) -> None:
        self.socket = accepted
        self.descriptor = accepted.fileno()
        self.connection = Connection(verbs, limits, self._transmit, reserve, release)
        self.ended = False
        self.opened_at = self.heard_at = self.whole_at = self.taken_at = time.monotonic()
        self.asked_at = 0.0
        self.taken = 0
        self._pending: deque[memoryview] = deque()
        self._pending_bytes = 0
        self._more = False
        """Whether what was read may hold another message."""
        self._epoll = epoll
        self._held = False
        """Whether a thread has it; where not, epoll has been asked to find one."""
        self._closed = False

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def take(self) -> bool:
        """Whether the channel is this thread's now. Not where another one has it: that one will ask again."""
        with self.connection.lock:
            if self._held or self._closed:
                return False
            self._held = True
            return True

    def hear(self, event: int) -> tuple[Stream, bytes] | None:
        """A message to answer, if one has come. Raises ConnectionFault, OSError."""
        connection = self.connection
        if event & _OUT and self._pending:
            with connection.lock:
                self._flush()
        if self._more:
            found = connection.next()
            if found is not None:
                return found
            self._more = False
        if not event & _NEWS:
            return None
        for _ in range(MAX_READS):
            wanted = connection.reader.left
            try:
                data = self.socket.recv(
                    READ_BYTES if wanted <= READ_BYTES else min(wanted + READ_BYTES, LARGE_READ_BYTES)
                )
            except BlockingIOError:
                return None
            self.heard_at = time.monotonic()
            if not data:
                self.ended = True
                return None
            connection.feed(data)
            found = connection.next()
            if found is not None:
                self._more = True
                return found
            if not connection.reader.left:
                break
        return None

    def give(self) -> None:
        """Leave it to the next thread that waits, once there is something for it."""
        with self.connection.lock:
            self._held = False
            self._epoll.modify(self.descriptor, self._wanted())

    def _wanted(self) -> int:
        wanted = _SHOT
        if self._pending_bytes < MAX_PENDING_BYTES:
            wanted |= _IN
        if self._more or self._pending:
            wanted |= _OUT
        return wanted

    def hang_up(self) -> None:
        """Let whoever waits for it find its end."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Its calls end; the descriptor is free."""
        self.connection.close()
        with self.connection.lock:
            self._closed = True
            self._pending.clear()
            self.socket.close()

    def _transmit(self, parts: list[Part]) -> None:
        """The connection's lock is held."""
        if self._closed:
            return
        sent = 0
        if not self._pending:
            try:
                sent = self.socket.send(parts[0]) if len(parts) == 1 else self.socket.sendmsg(parts[:MAX_PIECES])
            except BlockingIOError:
                pass
            except OSError:  # its reader will find out
                return
            if sent == sum(map(len, parts)):
                return
            self.taken_at = time.monotonic()
        for part in parts:
            if len(part):  # of nothing the kernel takes nothing, again and again
                self._pending.append(memoryview(part))
                self._pending_bytes += len(part)
        if sent:
            self._sent(sent)
        if not self._held:
            self._epoll.modify(self.descriptor, self._wanted())

    def _flush(self) -> None:
        while self._pending:
            pieces = [self._pending[place] for place in range(min(len(self._pending), MAX_PIECES))]
            try:
                sent = self.socket.sendmsg(pieces)
            except BlockingIOError:
                return
            except OSError:
                self._pending.clear()
                self._pending_bytes = 0
                return
            self._sent(sent)

    def _sent(self, size: int) -> None:
        self.taken_at = time.monotonic()
        self._pending_bytes -= size
        while size:
            first = self._pending[0]
            if size < len(first):
                self._pending[0] = first[size:]
                return
            size -= len(first)
            self._pending.popleft()

"""Sockets and threads for connections: whoever is free waits for what comes next, takes one message, and answers it.

All threads wait in one epoll. The kernel wakes one of them for a connection that has something to say and leaves it
alone until that thread asks again (EPOLLONESHOT), which it does before it answers: then the next thread may read on. So
no message changes its thread between its arrival and its answer. Threads are begun as they are needed: whenever one
begins to work and no other one waits.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock, Thread

from hybridge_edge.http2.channel import Channel
from hybridge_edge.http2.connection import Limits
from hybridge_edge.http2.frames import ENHANCE_YOUR_CALM, NO_ERROR, ConnectionFault
from hybridge_edge.http2.places import OTHERS, Places, Work
from hybridge_edge.http2.stream import RESOURCE_EXHAUSTED, Refusal, Stream
from hybridge_edge.http2.verbs import Verb

_LOG = logging.getLogger(__name__)
SPARE_THREADS = OTHERS + 2
"""Beyond those that work: for the other lanes, and to read."""
FIRST_THREADS = 2
MAX_CONNECTIONS = 128
RESERVED_FROM_BYTES = 64 * 1024
"""Messages from here on are counted against the memory of all."""
MESSAGES_IN_MEMORY = 4
"""Of the largest size: so many may be here at once, whatever ``Limits.memory_bytes`` says."""
TICK_S = 1.0
OPENING_S = 10.0
"""From the connection to the client's first words."""
PIECE_S = 30.0
"""From the beginning of a frame to its end, and for something of ours to be taken."""
SILENCE_S = 60.0
"""Then we ask whether the client is there."""
ANSWER_S = 20.0
"""For an answer to that."""
CLOSE_S = 2.0
"""For connections to end."""
_LOOK_S = 0.005
_NO_ROOM_S = 0.05
"""Where the system gives no descriptor."""
_ACCEPT = select.EPOLLIN | select.EPOLLONESHOT
_FULL = "Too many calls wait already. Send fewer at once, or try again later."


class Listener:
    """Serves verbs on one listening socket.

    Args:
        listening: bound and listening; closed by ``close``. name: of its threads. verbs: by path. refused: the gRPC
            status and sentence of an error that a verb raised. threads: messages of Lane.WORK at once.

    Raises (``start``):
        RuntimeError: there is no thread to be had.
    """

    def __init__(
        self,
        listening: socket.socket,
        name: str,
        verbs: Mapping[bytes, Verb],
        refused: Callable[[Exception], tuple[int, str]],
        limits: Limits,
        threads: int,
    ) -> None:
        self._listening = listening
        self._name = name
        self._verbs = verbs
        self._refused = refused
        self._limits = limits
        self._most = threads + SPARE_THREADS
        self._places = Places(threads)
        self._epoll = select.epoll()
        self._lock = Lock()
        self._channels: dict[int, Channel] = {}
        self._waiting: deque[None] = deque()
        """As long as there are threads that wait for something to do."""
        self._threads = 0
        self._told = False
        self._room = max(limits.message_bytes * MESSAGES_IN_MEMORY, limits.memory_bytes)
        self._closing = False
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable once the threads shall end: all of them are told, for it stays so."""
        listening.setblocking(False)

    def start(self) -> None:
        """Answer from now on."""
        for _ in range(FIRST_THREADS):
            self._begin_thread()
        if not self._threads:
            raise RuntimeError("can't start new thread")
        Thread(target=self._look, name=f"{self._name}-look", daemon=True).start()
        self._epoll.register(self._end, select.EPOLLIN)
        self._epoll.register(self._listening, _ACCEPT)

    def close(self) -> None:
        """Take no connection any more, and end those that are open; work that is under way ends by itself, and then
        its thread. What epoll holds is given back by the last of them."""
        if self._closing:
            return
        self._closing = True
        with suppress(OSError, ValueError):
            self._epoll.unregister(self._listening)
        self._listening.close()
        for channel in tuple(self._channels.values()):
            channel.connection.goodbye(NO_ERROR, "The server stops.")
            channel.hang_up()
        until = time.monotonic() + CLOSE_S
        while self._channels and time.monotonic() < until:
            time.sleep(_LOOK_S)
        with self._lock:
            begun = self._threads > 0
        os.eventfd_write(self._end, 1)
        if not begun:
            self._give_back()

    def _give_back(self) -> None:
        for channel in tuple(self._channels.values()):
            self._forget(channel)
        self._epoll.close()
        os.close(self._end)

    def _begin_thread(self) -> None:
        with self._lock:
            if self._threads >= self._most:
                return
            self._threads += 1
        try:
            Thread(target=self._serve, name=f"{self._name}-{self._threads}", daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
            if not self._told:
                self._told = True
                _LOG.error("No more threads for calls (%s); %d go on.", error, self._threads)

    def _serve(self) -> None:
        poll, waiting, channels = self._epoll.poll, self._waiting, self._channels
        listening, end = self._listening.fileno(), self._end
        descriptor = -1
        while descriptor != end:
            waiting.append(None)
            events = poll(-1, 1)
            waiting.pop()
            for descriptor, event in events:
                channel = channels.get(descriptor)
                if channel is not None:
                    self._hear(channel, event)
                elif descriptor == listening:
                    self._accept()
        with self._lock:
            self._threads -= 1
            last = not self._threads
        if last:
            self._give_back()

    def _hear(self, channel: Channel, event: int) -> None:
        if not channel.take():
            return
        found = None
        try:
            found = channel.hear(event)
        except ConnectionFault as fault:
            _LOG.info("%s: a connection ends: %s", self._name, fault)
            channel.connection.goodbye(fault.code, str(fault))
            channel.ended = True
        except OSError:
            channel.ended = True
        except Exception:
            _LOG.exception("%s: a connection ends", self._name)
            channel.ended = True
        if channel.ended:
            self._forget(channel)
            return
        if found is not None and not self._waiting:
            self._begin_thread()
        channel.give()
        if found is not None:
            self._work(Work(channel, *found))

    def _work(self, work: Work | None) -> None:
        """Answer a message if its lane has room for it, and then what waits for that room."""
        assert work is not None
        taken = self._places.take(work)
        if taken is None:
            work.channel.connection.refuse(work.stream, RESOURCE_EXHAUSTED, _FULL)
        if not taken:
            return
        lane = work.stream.verb.lane
        while work is not None:
            self._answer(work)
            work = self._places.leave(lane)

    def _answer(self, work: Work) -> None:
        connection, stream = work.channel.connection, work.stream
        verb = stream.verb
        message: bytes | None = work.message
        try:
            if not verb.streams:
                connection.answer(stream, verb.answer(work.message, stream))
                return
            while message is not None:
                message = connection.reply(stream, verb.answer(message, stream))
        except Exception as error:
            connection.refuse(stream, *self._refused(error))

    def _accept(self) -> None:
        while not self._closing:
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                break
            except OSError:
                time.sleep(_NO_ROOM_S)
                break
            self._welcome(accepted)
        with suppress(OSError, ValueError):
            self._epoll.modify(self._listening, _ACCEPT)

    def _welcome(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        if len(self._channels) >= MAX_CONNECTIONS:
            accepted.close()
            return
        channel = Channel(accepted, self._epoll, self._verbs, self._limits, self._reserve, self._release)
        self._channels[channel.descriptor] = channel
        try:
            self._epoll.register(channel.descriptor, 0)
            channel.take()
            channel.connection.greet()
            channel.give()
        except OSError:
            self._forget(channel)

    def _forget(self, channel: Channel) -> None:
        self._channels.pop(channel.descriptor, None)
        channel.close()

    def _reserve(self, stream: Stream, size: int) -> int:
        if size < RESERVED_FROM_BYTES:
            return 0
        with self._lock:
            if size > self._room:
                raise Refusal(RESOURCE_EXHAUSTED, "Too many large messages are here at once. Try again later.")
            self._room -= size
        return size

    def _release(self, stream: Stream, size: int) -> None:
        if size:
            stream.reserved -= size
            with self._lock:
                self._room += size

    def _look(self) -> None:
        """Now and then: end what is stuck or gone."""
        while not self._closing:
            time.sleep(TICK_S)
            now = time.monotonic()
            for channel in tuple(self._channels.values()):
                if self._is_late(channel, now):
                    channel.connection.goodbye(ENHANCE_YOUR_CALM, "Too slow.")
                    channel.hang_up()

    def _is_late(self, channel: Channel, now: float) -> bool:
        connection = channel.connection
        if not connection.begun:
            return now - channel.opened_at > OPENING_S
        if connection.reader.in_between or connection.reader.taken != channel.taken:
            channel.whole_at, channel.taken = now, connection.reader.taken
        if now - channel.whole_at > PIECE_S or (channel.pending and now - channel.taken_at > PIECE_S):
            return True
        if now - channel.heard_at <= SILENCE_S:
            channel.asked_at = 0.0
            return False
        if not channel.asked_at:
            channel.asked_at = now
            connection.ping()
        return now - channel.asked_at > ANSWER_S

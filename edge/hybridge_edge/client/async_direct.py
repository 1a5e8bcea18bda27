"""The direct socket for asyncio: the same words as of ``direct``, over a socket that the event loop watches."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from hybridge_edge.client.answers import InferenceAnswer
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.direct import CONNECT_S, DirectWay
from hybridge_edge.client.exchange import Exchange, Heard, Say
from hybridge_edge.client.streams import LATE_S
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.direct.frames import MAGIC, Ended, Incoming, Part, outgoing, send_some, unsent
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES

_AGAIN_S = 0.01
"""Where more connect than the server accepts at once: such a socket cannot be waited for (unix(7), EAGAIN)."""


class AsyncDirectConnection:
    """One connection, of one event loop, for one request at a time.

    The loop watches the socket for as long as it is open: registering it anew for each answer costs more than reading
    one, and a server that goes while nothing is asked is noticed.
    """

    def __init__(self, connected: socket.socket, shared_bytes: int) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._incoming = Incoming(MAX_MESSAGE_BYTES)
        self._unsent: Sequence[Part] = ()
        self._descriptor: int | None = None
        """To go with what is sent next."""
        self._writing = False
        self._waiter: asyncio.Future[Heard] | None = None
        """There while something is asked."""
        self._broken: Exception | None = None
        self.exchange = Exchange(shared_bytes)
        self._loop.add_reader(connected, self._readable)

    @classmethod
    async def opened(cls, path: Path, shared_bytes: int, until: float) -> AsyncDirectConnection:
        """Connect. Raises OSError."""
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)
            until = min(until, time.monotonic() + CONNECT_S)
            while True:
                try:
                    connecting.connect(str(path))
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise
                await asyncio.sleep(_AGAIN_S)
            connecting.send(MAGIC)
            return cls(connecting, shared_bytes)
        except BaseException:
            connecting.close()
            raise

    async def infer(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer:
        """Ask and wait. Raises as ``Exchange.infer``; OSError, Ended where the connection broke."""
        words = self.exchange.infer(asked, timeout_s)
        try:
            say = next(words)
            while True:
                say = words.send(await self._say(say, until))
        except StopIteration as ended:
            answer: InferenceAnswer = ended.value
            return answer
        finally:
            words.close()

    def close(self) -> None:
        """At once, whatever is under way: the server cancels what it runs for it."""
        self._look_away()
        self._socket.close()
        self._unsent, self._descriptor = (), None
        self.exchange.close()

    async def _say(self, say: Say, until: float) -> Heard:
        if self._broken is not None:
            raise self._broken
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(max(until - time.monotonic(), 0.0) + LATE_S, _late, waiter)
        try:
            self._unsent, self._descriptor = outgoing(say.kind, say.parts), say.descriptor
            self._write()
            heard: Heard = await waiter
            return heard
        finally:
            timer.cancel()
            self._waiter = None

    def _write(self) -> None:
        """Send what the system takes now, and the rest when it takes more. Raises OSError."""
        try:
            sent = send_some(self._socket, self._unsent, self._descriptor)
        except BlockingIOError:
            sent = 0
        else:
            self._descriptor = None
            self._unsent = unsent(self._unsent, sent)
        if self._unsent and not self._writing:
            self._loop.add_writer(self._socket, self._writable)
        elif self._writing and not self._unsent:
            self._loop.remove_writer(self._socket)
        self._writing = bool(self._unsent)

    def _writable(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._break(error)

    def _readable(self) -> None:
        try:
            heard = self._incoming.take(self._socket.recv_into(self._incoming.room()))
            if heard is None:
                return
            if self._waiter is None or self._waiter.done() or self._unsent:
                raise InvalidDocument("The server answers what it was not asked.", "Update the client.")
        except BlockingIOError:
            return
        except (OSError, Ended, InvalidDocument) as error:
            self._break(error)
            return
        self._waiter.set_result(heard)

    def _break(self, error: Exception) -> None:
        """Nothing can be asked here any more. Whoever waits is told; an idle connection closes itself."""
        self._broken = error
        self._look_away()
        if self._waiter is None:
            self.close()
        elif not self._waiter.done():
            self._waiter.set_exception(error)

    def _look_away(self) -> None:
        """Before the socket is closed: its number may be another's soon."""
        if self._socket.fileno() >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._writing = False


class AsyncDirect(DirectWay[AsyncDirectConnection]):
    """At most ``most`` connections to one server, for the tasks of one event loop."""

    async def infer(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer | None:
        """The answer; None where another way is to be taken. Raises as ``Direct.infer``."""
        connection = self._pool.take() or await self._opened(until)
        if connection is None:
            return None
        try:
            answer = await connection.infer(asked, until, timeout_s)
        except BaseException as error:
            self._failed(connection, asked, timeout_s, error)
            return None
        self._pool.give_back(connection)
        return answer

    async def _opened(self, until: float) -> AsyncDirectConnection | None:
        if not self._pool.reserve():
            return None
        try:
            opened = await AsyncDirectConnection.opened(self._path, self._shared_bytes, until)
        except BaseException as error:
            self._pool.release(refused=isinstance(error, OSError))
            if isinstance(error, OSError):  # an older server, or none: grpc finds out which
                return None
            raise
        return self._pool.add(opened)


def _late(waiter: asyncio.Future[Heard]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())

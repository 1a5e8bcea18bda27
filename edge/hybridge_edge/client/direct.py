"""The direct socket underneath: no grpc between, and large tensors in memory that the server maps (see ``direct``)."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from hybridge_edge.client.answers import InferenceAnswer
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.exchange import Exchange, Heard, NoRoom, Say
from hybridge_edge.client.pool import Closes, Pool
from hybridge_edge.client.sequences import retried
from hybridge_edge.client.streams import LATE_S
from hybridge_edge.contract.errors import DeadlineExceeded, HybridgeError, InvalidDocument, Unavailable
from hybridge_edge.direct.frames import MAGIC, Ended, Frames
from hybridge_edge.serving.contents import MAX_MESSAGE_BYTES

DEFAULT_CONNECTIONS = 4
CONNECT_S = 2.0


class Converses(Closes, Protocol):
    """A connection of either client."""

    exchange: Exchange


Conversing = TypeVar("Conversing", bound=Converses)


class DirectWay(Generic[Conversing]):
    """What both clients do alike: how many connections there are, and what becomes of one on which something failed.

    Args:
        path: of the socket, or None where the server is not on this device. shared_bytes: see SHARED_BYTES.
    """

    def __init__(self, path: Path | None, most: int, shared_bytes: int) -> None:
        self._path = path or Path()
        self._shared_bytes = shared_bytes
        self._pool: Pool[Conversing] = Pool(most if path is not None else 0)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._pool.open

    def close(self) -> None:
        """Those on which something is asked close with its answer."""
        self._pool.close()

    def _failed(self, connection: Conversing, asked: Asked, timeout_s: float, error: BaseException) -> None:
        """Give back or drop the connection. Returns where the request is to go another way, else raises."""
        pool, fresh = self._pool, connection.exchange.fresh
        if isinstance(error, NoRoom):
            pool.drop(connection, refused=True)
            return
        if isinstance(error, TimeoutError):
            pool.drop(connection)
            raise DeadlineExceeded(f"No answer within {timeout_s:g} s.", "Allow more time.") from None
        if isinstance(error, (OSError, Ended, InvalidDocument)):
            pool.drop(connection, refused=fresh)
            # Not one word of ours: a server that is full, that stops, or another program; grpc finds out which.
            if fresh and retried(asked.step, True):
                return
            if isinstance(error, InvalidDocument):
                raise error
            why = f": {error}" if str(error) else ""
            raise Unavailable(f"The server at {self._path} went away{why}.", "See hybridge-edge status.") from None
        if isinstance(error, HybridgeError):  # the server's answer
            pool.give_back(connection)
        else:  # KeyboardInterrupt, a cancelled task: its answer would be the next one's
            pool.drop(connection)
        raise error


class DirectConnection:
    """One connection of a client for threads, for one request at a time."""

    def __init__(self, path: Path, shared_bytes: int, until: float) -> None:
        """Connect. Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(min(CONNECT_S, _left(until)))
            self._socket.connect(str(path))
            self._socket.sendall(MAGIC)
        except OSError:
            self._socket.close()
            raise
        self._frames = Frames(self._socket, MAX_MESSAGE_BYTES)
        self.exchange = Exchange(shared_bytes)

    def infer(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer:
        """Ask and wait. Raises as ``Exchange.infer``; OSError, Ended where the connection broke."""
        words = self.exchange.infer(asked, timeout_s)
        try:
            say = next(words)
            while True:
                say = words.send(self._say(say, until))
        except StopIteration as ended:
            answer: InferenceAnswer = ended.value
            return answer
        finally:
            words.close()

    def close(self) -> None:
        self._socket.close()
        self.exchange.close()

    def _say(self, say: Say, until: float) -> Heard:
        self._socket.settimeout(_left(until) + LATE_S)
        self._frames.send(say.kind, say.parts, say.descriptor)
        kind, body, descriptor = self._frames.receive(until + LATE_S)
        if descriptor is not None:
            os.close(descriptor)
        return kind, body


class Direct(DirectWay[DirectConnection]):
    """At most ``most`` connections to one server; safe to share between threads."""

    def infer(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer | None:
        """The answer; None where no connection is free or to be had, so that another way is to be taken.

        Raises:
            HybridgeError: as the server says; Unavailable: the connection broke; DeadlineExceeded.
        """
        connection = self._pool.take() or self._opened(until)
        if connection is None:
            return None
        try:
            answer = connection.infer(asked, until, timeout_s)
        except BaseException as error:
            self._failed(connection, asked, timeout_s, error)
            return None
        self._pool.give_back(connection)
        return answer

    def _opened(self, until: float) -> DirectConnection | None:
        if not self._pool.reserve():
            return None
        try:
            opened = DirectConnection(self._path, self._shared_bytes, until)
        except BaseException as error:
            self._pool.release(refused=isinstance(error, OSError))
            if isinstance(error, OSError):  # an older server, or none: grpc finds out which
                return None
            raise
        return self._pool.add(opened)


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.001)

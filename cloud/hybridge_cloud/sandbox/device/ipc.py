"""The Greengrass IPC server: event-stream RPC on a Unix socket, for the unmodified ``awsiotsdk``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridge_cloud.sandbox.device import eventstream
from hybridge_cloud.sandbox.device.eventstream import Message
from hybridge_cloud.sandbox.device.mode import MEBIBYTE, Limits
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument

_CONNECT_WITHIN = 10.0
_REFUSAL_READ_WITHIN = 0.2
_BEHIND = 4 * MEBIBYTE
"""Bytes a slow client may leave unread before its connection is closed."""
_EARLY = 64
"""Events that may come before the answer which opens their stream."""
_log = logging.getLogger(__name__)


class Denied(Exception):
    """An operation's error answer: the shape (``ServiceError``, ``UnauthorizedError``, ...) and a sentence."""

    def __init__(self, shape: str, message: str) -> None:
        super().__init__(message)
        self.shape = shape


@dataclass(frozen=True, slots=True)
class Answer:
    """An operation's answer; ``stays_open`` where events follow on the stream."""

    shape: str
    fields: Mapping[str, Any]
    stays_open: bool = False


class Stream:
    """One operation in progress on a connection."""

    def __init__(self, connection: Connection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._early: list[bytes] | None = []
        self.component = connection.component
        self.on_close: Callable[[], None] | None = None

    def event(self, shape: str, fields: Mapping[str, Any]) -> None:
        """Send one event; those before the operation's answer follow it."""
        message = _application(self._number, shape, fields, 0)
        if self._early is None:
            self._connection.send(message)
        elif len(self._early) < _EARLY:
            self._early.append(message)

    def answer(self, answer: Answer) -> None:
        flags = 0 if answer.stays_open else eventstream.TERMINATE_STREAM
        self._connection.send(_application(self._number, answer.shape, answer.fields, flags))
        early, self._early = self._early or [], None
        for message in early:
            self._connection.send(message)

    def refuse(self, denied: Denied) -> None:
        fields = {"_message": str(denied), "_errorCode": denied.shape}
        message = _application(
            self._number, denied.shape, fields, eventstream.TERMINATE_STREAM, eventstream.APPLICATION_ERROR
        )
        self._connection.send(message)

    def close(self) -> None:
        if self.on_close is not None:
            self.on_close()
            self.on_close = None


Operation = Callable[[str, Mapping[str, Any], Stream], Awaitable[Answer]]
"""Called with an operation's name (no namespace), its request and its stream; raises Denied."""


def _application(number: int, shape: str, fields: Mapping[str, Any], flags: int, kind: int = 0) -> bytes:
    headers = {":content-type": "application/json", "service-model-type": f"aws.greengrass#{shape}"}
    return Message(kind, number, flags, headers, json.dumps(fields).encode()).encode()


class Connection:
    """One client: who it is, and its open streams."""

    def __init__(self, writer: asyncio.StreamWriter, component: str, limits: Limits, operate: Operation) -> None:
        self.component = component
        self._writer = writer
        self._limits = limits
        self._operate = operate
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, message: bytes) -> None:
        """Send without waiting; a message over the limit, or a client that does not read, ends the connection."""
        if self._writer.is_closing():
            return
        transport = self._writer.transport
        if len(message) > self._limits.message_bytes:
            _log.warning("A message of %d bytes to %s closes its connection", len(message), self.component)
            transport.abort()
        elif transport.get_write_buffer_size() > _BEHIND:
            _log.warning("%s does not read: its connection is closed", self.component)
            transport.abort()
        else:
            self._writer.write(message)

    async def handle(self, message: Message) -> None:
        if message.type == eventstream.PING:
            self.send(Message(eventstream.PING_RESPONSE, payload=message.payload).encode())
            return
        number = message.stream
        stream = self._streams.get(number)
        if message.flags & eventstream.TERMINATE_STREAM:
            if stream is not None:
                self._end(number)
                self.send(Message(eventstream.APPLICATION, number, eventstream.TERMINATE_STREAM).encode())
        elif message.type != eventstream.APPLICATION or number <= 0 or stream is not None:
            raise InvalidDocument(f"{self.component} sent an unexpected message of type {message.type}.")
        elif len(self._streams) >= self._limits.streams:
            Stream(self, number).refuse(Denied("ServiceError", "There are too many open streams."))
        else:
            self._streams[number] = stream = Stream(self, number)
            task = asyncio.create_task(self._call(number, stream, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, number: int, stream: Stream, message: Message) -> None:
        name = str(message.headers.get("operation", "")).removeprefix("aws.greengrass#")
        try:
            request = json.loads(message.payload or b"{}")
            if not isinstance(request, dict):
                raise Denied("InvalidArgumentsError", "A request is a JSON object.")
            answer = await self._operate(name, request, stream)
        except Denied as denied:
            stream.refuse(denied)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            stream.refuse(Denied("InvalidArgumentsError", f"The request of {name} cannot be read: {error}."))
        except HybridgeError as error:
            stream.refuse(Denied("ServiceError", str(error)))
        else:
            if number not in self._streams:
                stream.close()  # the client left while the operation was opening the stream
                return
            stream.answer(answer)
            if answer.stays_open:
                return
        self._end(number)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for number in list(self._streams):
            self._end(number)

    def _end(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.close()


class IpcServer:
    """Listens on the socket that components are told of.

    Args:
        identify: the component that a token (SVCUID) belongs to, or None.
    """

    def __init__(self, socket: Path, limits: Limits, identify: Callable[[str], str | None], operate: Operation) -> None:
        self._socket = socket
        self._limits = limits
        self._identify = identify
        self._operate = operate
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, str(self._socket))
        self._socket.chmod(0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.cancel()
        if self._clients:
            await asyncio.wait(list(self._clients))
        self._socket.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= self._limits.connections:
            writer.close()
            return
        self._clients.add(task)
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_CONNECT_WITHIN):
                connection = await self._connect(reader, writer)
            while connection is not None:
                await connection.handle(await self._receive(reader))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # the client left
        except InvalidDocument as error:
            _log.warning("IPC: %s", error)
        except asyncio.CancelledError:
            pass  # the device stops
        finally:
            if connection is not None:
                connection.close()
            writer.transport.abort()
            self._clients.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection | None:
        message = await self._receive(reader)
        token = _token(message)
        component = self._identify(token) if message.type == eventstream.CONNECT and token else None
        accepted = eventstream.CONNECTION_ACCEPTED if component is not None else 0
        writer.write(Message(eventstream.CONNECT_ACK, flags=accepted, headers={":version": "0.1.0"}).encode())
        await writer.drain()
        if component is None:
            with contextlib.suppress(TimeoutError):  # an SDK reads the refusal and leaves by itself
                await asyncio.wait_for(reader.read(1), _REFUSAL_READ_WITHIN)
            return None
        return Connection(writer, component, self._limits, self._operate)

    async def _receive(self, reader: asyncio.StreamReader) -> Message:
        prelude = await reader.readexactly(eventstream.PRELUDE_BYTES)
        total = eventstream.length(prelude)
        if total > self._limits.message_bytes:
            raise InvalidDocument(f"A message of {total} bytes is over {self._limits.message_bytes}.")
        return eventstream.decode(prelude + await reader.readexactly(total - len(prelude)))


def _token(message: Message) -> str:
    try:
        fields = json.loads(message.payload)
    except ValueError:
        return ""
    return str(fields.get("authToken") or "") if isinstance(fields, dict) else ""

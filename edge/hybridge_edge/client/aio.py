"""The client for asyncio: the same verbs, and a stream underneath for one task at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from hybridge_edge import lines
from hybridge_edge.client import wording
from hybridge_edge.client.answers import InferenceAnswer, answer_in, answer_in_stream, error_of
from hybridge_edge.client.attempts import Attempts
from hybridge_edge.client.labels import FEEDBACK_S, feedback_line
from hybridge_edge.client.readiness import LOOK_AGAIN_S, LOOK_S, Progress, Watcher, not_ready
from hybridge_edge.client.sequences import DEFAULT_TIMEOUT_S, AsyncClientSequence, retried
from hybridge_edge.client.streams import REFUSED_S, STREAM_AFTER
from hybridge_edge.client.sync import DEFAULT_STREAMS
from hybridge_edge.client.targets import OPTIONS, SERVICE, Targets
from hybridge_edge.client.tls import ClientTls, Files, Uses
from hybridge_edge.contract.errors import DeadlineExceeded, HybridgeError, Refused, Unavailable
from hybridge_edge.contract.feedback import DEFAULT_SOURCE
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving.sequences import Step


class _Connection:
    """A channel of grpc.aio to one address, and its streams."""

    def __init__(self, target: str, streams: int, files: Files) -> None:
        self.target = target
        self.uses = Uses()
        credentials = files.use()
        if credentials is None or files.tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=files.tls.options())
        self._infer = self._channel.unary_unary(f"{SERVICE}ModelInfer")
        self._stream = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        self._most = streams
        self._idle: list[Any] = []
        self._open = 0
        self._asked = 0
        self._not_before = 0.0

    async def call(self, verb: str, request: Any, timeout_s: float) -> Any:
        """A verb of the protocol by its name. Raises HybridgeError."""
        kind = getattr(messages, f"{verb}Response")
        method = self._channel.unary_unary(f"{SERVICE}{verb}", type(request).SerializeToString, kind.FromString)
        try:
            return await method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, self.target) from None

    async def ask(self, request: bytes, timeout_s: float) -> InferenceAnswer:
        """One inference, over a stream where one is free. Raises HybridgeError."""
        stream = self._take()
        if stream is not None:
            answer = await self._over(stream, request, timeout_s)
            if answer is not None:
                return answer
        try:
            return answer_in(await self._infer(request, timeout=timeout_s))
        except grpc.RpcError as error:
            raise error_of(error, self.target) from None

    async def leave(self) -> None:
        """A call has ended here."""
        if self.uses.leave():
            await self.close()

    async def close(self) -> None:
        for stream in self._idle:
            stream.cancel()
        await self._channel.close()

    def _take(self) -> Any:
        self._asked += 1
        if self._idle:
            return self._idle.pop()
        if self._open >= self._most or self._asked <= STREAM_AFTER or time.monotonic() < self._not_before:
            return None
        self._open += 1
        return self._stream()

    async def _over(self, stream: Any, request: bytes, timeout_s: float) -> InferenceAnswer | None:
        """Ask over a stream; None where the server has no room for it."""
        try:
            response = await asyncio.wait_for(_ask_and_wait(stream, request), timeout_s)
            if response is grpc.aio.EOF:
                raise _ended(self.target)
        except asyncio.TimeoutError:
            self._drop(stream)
            raise DeadlineExceeded(f"No answer within {timeout_s:g} s.", "Allow more time.") from None
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            # A write to a stream that has ended is InvalidStateError; how it ended is the stream's own status.
            self._drop(stream)
            ended = error if isinstance(error, grpc.RpcError) else await _end_of(stream)
            if ended is not None and ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._not_before = time.monotonic() + REFUSED_S
                return None
            # grpc says INTERNAL of a write to a stream that is gone; what goes wrong in our server comes as an answer.
            if ended is None or ended.code() is grpc.StatusCode.INTERNAL:
                raise _ended(self.target) from None
            raise error_of(ended, self.target) from None
        except BaseException:  # a cancelled task: its answer would be the next one's
            self._drop(stream)
            raise
        self._idle.append(stream)
        return answer_in_stream(response)

    def _drop(self, stream: Any) -> None:
        self._open -= 1
        stream.cancel()


def _ended(target: str) -> Unavailable:
    return Unavailable(f"The server at {target} ended the stream.", "See hybridge-edge status.")


async def _ask_and_wait(stream: Any, request: bytes) -> Any:
    await stream.write(request)
    return await stream.read()


async def _end_of(stream: Any) -> Any:
    code = await stream.code()
    if code in (None, grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
        return None
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), await stream.details())


class AsyncClient:
    """As ``Client``, for the tasks of one event loop. Close it, or use it in an ``async with``."""

    def __init__(
        self,
        target: str = "",
        *,
        tls: ClientTls | None = None,
        retry: bool = True,
        streams: int = DEFAULT_STREAMS,
    ) -> None:
        self._targets = Targets(target)
        self._files = Files(tls)
        self._files.check_target(target)
        self._retry = retry
        self._streams = streams
        self._connected: _Connection | None = None

    @classmethod
    def connect(cls) -> AsyncClient:
        """A client of this device's server, which need not have started yet (see ``wait_ready``)."""
        return cls()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; a later call makes a new one."""
        connection, self._connected = self._connected, None
        if connection is not None:
            await connection.close()

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        sample_id: str = "",
        outputs: Sequence[str] = (),
        capture: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> InferenceAnswer:
        """Run one request; see ``Client.infer``."""
        return await self._step(model, inputs, version, sample_id, outputs, capture, timeout_s, None)

    def sequence(self, model: str, *, sequence_id: int | str = "", version: str = "") -> AsyncClientSequence:
        """Requests that belong together, of a model with states: ``with client.sequence(MODEL) as sequence``.

        Args:
            sequence_id: "" chooses one that nobody else has. version: to begin on, "" for the active one.
        """
        return AsyncClientSequence(self._step, model, sequence_id, version)

    async def _step(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str,
        sample_id: str,
        outputs: Sequence[str],
        capture: bool,
        timeout_s: float,
        step: Step | None,
    ) -> InferenceAnswer:
        attempts = Attempts(timeout_s, retry=retried(step, self._retry))
        sample_id = sample_id or secrets.token_hex(16)
        while True:
            left = attempts.left()
            request = wording.request(
                model, version, sample_id, inputs, outputs, capture=capture, timeout_us=int(left * 1e6), step=step
            )
            try:
                connection = await self._using(found_anew=not attempts.first)
                try:
                    return await connection.ask(request, left)
                finally:
                    await connection.leave()
            except HybridgeError as error:
                pause = attempts.pause_after(error)
            await asyncio.sleep(pause)

    async def model_ready(self, model: str, timeout_s: float = 5.0) -> bool:
        """Whether the model answers now. Raises Unavailable where the server does not."""
        connection = await self._using()
        try:
            return bool((await connection.call("ModelReady", messages.ModelReadyRequest(name=model), timeout_s)).ready)
        finally:
            await connection.leave()

    async def wait_ready(self, model: str = "", *, timeout_s: float = 60.0, progress: Progress | None = None) -> None:
        """Wait until a model answers, or every one that should; see ``Client.wait_ready``."""
        watcher, until = Watcher(progress), time.monotonic() + timeout_s
        while True:
            try:
                if await self._look(model, watcher):
                    return
            except (Unavailable, DeadlineExceeded) as error:
                watcher.say(error.message)
            if time.monotonic() >= until:
                raise watcher.missed(model, timeout_s)
            await asyncio.sleep(LOOK_AGAIN_S)

    async def feedback(
        self, sample_id: str, label: str, *, model: str, source: str = DEFAULT_SOURCE, confidence: float = 1.0
    ) -> None:
        """Say what a sample is; see ``Client.feedback``."""
        line = feedback_line(sample_id, label, model, source, confidence)
        lines.read_answer(await asyncio.to_thread(lines.ask, self._targets.management(), line, FEEDBACK_S))

    async def _look(self, model: str, watcher: Watcher) -> bool:
        connection = await self._using(found_anew=True)
        try:
            return await self._look_over(connection, model, watcher)
        finally:
            await connection.leave()

    @staticmethod
    async def _look_over(connection: _Connection, model: str, watcher: Watcher) -> bool:
        if model:
            ready = (await connection.call("ModelReady", messages.ModelReadyRequest(name=model), LOOK_S)).ready
        else:
            ready = (await connection.call("ServerReady", messages.ServerReadyRequest(), LOOK_S)).ready
        if not ready and model:
            watcher.say(
                not_ready(model, await connection.call("RepositoryIndex", messages.RepositoryIndexRequest(), LOOK_S))
            )
        elif not ready:
            watcher.say("a model that should answer does not yet")
        return bool(ready)

    async def _using(self, *, found_anew: bool = False) -> _Connection:
        """The connection, for one call: to be left after it."""
        while True:
            connection = await self._connection(found_anew=found_anew)
            if connection.uses.enter():
                return connection

    async def _connection(self, *, found_anew: bool = False) -> _Connection:
        connected = self._connected
        if connected is not None and not found_anew and not self._files.changed():
            return connected
        target, before = self._targets.now(), connected
        if connected is None or connected.target != target or self._files.differ():
            try:
                connected = _Connection(target, self._streams, self._files)
            except Refused:  # files that are being replaced: those of before go on
                if connected is None:
                    raise
            self._connected = connected
            if before is not None and before is not connected and before.uses.retire():
                await before.close()
        return connected

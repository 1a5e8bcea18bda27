"""The client for asyncio: the same verbs, and the same ways underneath."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from hybridge_edge import lines
from hybridge_edge.client.answers import InferenceAnswer
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.async_connection import AsyncConnection
from hybridge_edge.client.attempts import Attempts
from hybridge_edge.client.direct import DEFAULT_CONNECTIONS
from hybridge_edge.client.exchange import SHARED_BYTES
from hybridge_edge.client.labels import FEEDBACK_S, feedback_line
from hybridge_edge.client.readiness import LOOK_AGAIN_S, LOOK_S, Progress, Watcher, not_ready
from hybridge_edge.client.sequences import DEFAULT_TIMEOUT_S, AsyncClientSequence, retried
from hybridge_edge.client.streams import DEFAULT_STREAMS
from hybridge_edge.client.targets import Targets
from hybridge_edge.client.tls import ClientTls, Files
from hybridge_edge.contract.errors import DeadlineExceeded, HybridgeError, Refused, Unavailable
from hybridge_edge.contract.feedback import DEFAULT_SOURCE
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving.sequences import Step


class AsyncClient:
    """As ``Client``, for the tasks of one event loop. Close it, or use it in an ``async with``."""

    def __init__(
        self,
        target: str = "",
        *,
        tls: ClientTls | None = None,
        retry: bool = True,
        direct: int = DEFAULT_CONNECTIONS,
        shared_bytes: int = SHARED_BYTES,
        streams: int = DEFAULT_STREAMS,
    ) -> None:
        self._targets = Targets(target)
        self._files = Files(tls)
        self._files.check_target(target)
        self._retry = retry
        self._ways = streams, direct, shared_bytes
        self._connected: AsyncConnection | None = None

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
        """Run one request; see ``Client.infer``. Nobody may write into ``inputs`` while it is awaited.

        A cancelled task's request is cancelled in the server too.
        """
        return await self._infer(
            Asked(model, inputs, version, sample_id or secrets.token_hex(16), outputs, capture), timeout_s
        )

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
        step: Step,
    ) -> InferenceAnswer:
        asked = Asked(model, inputs, version, sample_id or secrets.token_hex(16), outputs, capture, step)
        return await self._infer(asked, timeout_s)

    async def _infer(self, asked: Asked, timeout_s: float) -> InferenceAnswer:
        attempts = Attempts(timeout_s, retry=retried(asked.step, self._retry))
        while True:
            left = attempts.left()
            try:
                connection = await self._using(found_anew=not attempts.first)
                try:
                    return await connection.ask(asked, attempts.until, left)
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
    async def _look_over(connection: AsyncConnection, model: str, watcher: Watcher) -> bool:
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

    async def _using(self, *, found_anew: bool = False) -> AsyncConnection:
        """The connection, for one call: to be left after it."""
        while True:
            connection = await self._connection(found_anew=found_anew)
            if connection.uses.enter():
                return connection

    async def _connection(self, *, found_anew: bool = False) -> AsyncConnection:
        connected = self._connected
        if connected is not None and not found_anew and not self._files.changed():
            return connected
        target, before = self._targets.now(), connected
        if connected is None or connected.target != target or self._files.differ():
            try:
                connected = AsyncConnection(target, *self._ways, self._files)
            except Refused:  # files that are being replaced: those of before go on
                if connected is None:
                    raise
            self._connected = connected
            if before is not None and before is not connected and before.uses.retire():
                await before.close()
        return connected

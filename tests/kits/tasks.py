"""AsyncClient with the face of Client: its loop runs in a thread, so that one test holds both clients to the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from hybridge_edge.client import AsyncClient


class TasksClient:
    """Each call is a task of one loop; calls of several threads are tasks at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tasks")
        self._thread.start()
        self.client = self._wait(self._make(arguments, options))

    @staticmethod
    async def _make(arguments: Any, options: Any) -> AsyncClient:
        return AsyncClient(*arguments, **options)

    def __enter__(self) -> TasksClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    @property
    def _connected(self) -> Any:
        return self.client._connected

    def infer(self, *arguments: Any, **options: Any) -> Any:
        return self._wait(self.client.infer(*arguments, **options))

    def sequence(self, *arguments: Any, **options: Any) -> TasksSequence:
        return TasksSequence(self._wait, self.client.sequence(*arguments, **options))

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        asked: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return asked.result(60)


class TasksSequence:
    """AsyncClientSequence with the face of ClientSequence."""

    def __init__(self, wait: Any, sequence: Any) -> None:
        self._wait, self._sequence = wait, sequence

    def __enter__(self) -> TasksSequence:
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._sequence.end())

    def infer(self, *arguments: Any, **options: Any) -> Any:
        return self._wait(self._sequence.infer(*arguments, **options))

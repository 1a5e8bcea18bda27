"""Streams underneath single requests, for asyncio: see ``streams``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from hybridge_edge.client.answers import InferenceAnswer, answer_in_stream, error_of
from hybridge_edge.client.pool import Pool
from hybridge_edge.client.streams import STREAM_AFTER
from hybridge_edge.contract.errors import DeadlineExceeded, Unavailable


class AsyncStream:
    """One open ModelStreamInfer."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._stream = method()

    async def ask(self, request: bytes) -> Any:
        """Send a request and wait for its answer, or for grpc's end of the stream."""
        await self._stream.write(request)
        return await self._stream.read()

    async def end(self) -> Any:
        """The error that ended it; None where it ended without one."""
        code = await self._stream.code()
        if code in (None, grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            return None
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), await self._stream.details())

    def close(self) -> None:
        self._stream.cancel()


class AsyncStreams:
    """At most ``most`` streams of one connection, for the tasks of one event loop."""

    def __init__(self, method: Callable[..., Any], most: int, target: str) -> None:
        self._method = method
        self._target = target
        self._pool: Pool[AsyncStream] = Pool(most, after=STREAM_AFTER)

    @property
    def open(self) -> int:
        """How many there are."""
        return self._pool.open

    async def infer(self, request: bytes, timeout_s: float) -> InferenceAnswer | None:
        """The answer; None where a plain call is to be made. Raises as ``Streams.infer``."""
        pool = self._pool
        stream = pool.take()
        if stream is None:
            if not pool.reserve():
                return None
            stream = pool.add(AsyncStream(self._method))
        try:
            response = await asyncio.wait_for(stream.ask(request), timeout_s)
            if response is grpc.aio.EOF:
                raise self._ended()
        except asyncio.TimeoutError:
            pool.drop(stream)
            raise DeadlineExceeded(f"No answer within {timeout_s:g} s.", "Allow more time.") from None
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            # A write to a stream that has ended is InvalidStateError; how it ended is the stream's own status.
            pool.drop(stream)
            ended = error if isinstance(error, grpc.RpcError) else await stream.end()
            if ended is not None and ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                pool.pause()
                return None
            # grpc says INTERNAL of a write to a stream that is gone; what goes wrong in our server comes as an answer.
            if ended is None or ended.code() is grpc.StatusCode.INTERNAL:
                raise self._ended() from None
            raise error_of(ended, self._target) from None
        except BaseException:  # a cancelled task: its answer would be the next one's
            pool.drop(stream)
            raise
        pool.give_back(stream)
        return answer_in_stream(response)

    def close(self) -> None:
        self._pool.close()

    def _ended(self) -> Unavailable:
        return Unavailable(f"The server at {self._target} ended the stream.", "See hybridge-edge status.")

"""The way to one server, for asyncio: the direct socket beside it, streams, calls."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from hybridge_edge.client.answers import InferenceAnswer, answer_in, error_of
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.async_direct import AsyncDirect
from hybridge_edge.client.async_streams import AsyncStreams
from hybridge_edge.client.targets import OPTIONS, SERVICE, Targets
from hybridge_edge.client.tls import Files, Uses
from hybridge_edge.contract.protos import open_inference_pb2 as messages


class AsyncConnection:
    """A channel of grpc.aio to one address, its verbs, and the shorter ways beside single calls."""

    def __init__(self, target: str, streams: int, direct: int, shared_bytes: int, files: Files) -> None:
        self.target = target
        self.direct = AsyncDirect(Targets.direct(target), direct, shared_bytes)
        self.uses = Uses()
        credentials = files.use()
        if credentials is None or files.tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=files.tls.options())
        self._infer = self._channel.unary_unary(f"{SERVICE}ModelInfer")
        self.streams = AsyncStreams(self._channel.stream_stream(f"{SERVICE}ModelStreamInfer"), streams, target)

    async def call(self, verb: str, request: Any, timeout_s: float) -> Any:
        """A verb of the protocol by its name. Raises HybridgeError."""
        kind = getattr(messages, f"{verb}Response")
        method = self._channel.unary_unary(f"{SERVICE}{verb}", type(request).SerializeToString, kind.FromString)
        try:
            return await method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, self.target) from None

    async def ask(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer:
        """One inference, over the direct socket or a stream where one is free. Raises HybridgeError."""
        answer = await self.direct.infer(asked, until, timeout_s)
        if answer is not None:
            return answer
        request = asked.message(timeout_s)
        answer = await self.streams.infer(request, timeout_s)
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
        self.direct.close()
        self.streams.close()
        await self._channel.close()

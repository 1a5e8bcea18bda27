"""The way to one server, for threads: the direct socket beside it, streams, calls."""

from __future__ import annotations

from typing import Any

import grpc

from hybridge_edge.client.answers import InferenceAnswer, answer_in, error_of
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.direct import Direct
from hybridge_edge.client.streams import Streams
from hybridge_edge.client.targets import OPTIONS, SERVICE, Targets
from hybridge_edge.client.tls import Files, Uses
from hybridge_edge.contract.protos import open_inference_pb2 as messages


class Connection:
    """A channel to one address, its verbs, and the shorter ways beside single calls.

    Entered for each call (see ``Client._using``): where the files of TLS change, another connection replaces it, and
    the last call that is left on it closes it.
    """

    def __init__(self, target: str, streams: int, direct: int, shared_bytes: int, files: Files) -> None:
        self.target = target
        self.direct = Direct(Targets.direct(target), direct, shared_bytes)
        self.uses: Uses | None = None
        credentials = files.use()
        if credentials is None or files.tls is None:
            self._channel = grpc.insecure_channel(target, options=OPTIONS)
        else:
            self.uses = Uses()
            self._channel = grpc.secure_channel(target, credentials, options=files.tls.options())
        self.infer = self._channel.unary_unary(f"{SERVICE}ModelInfer")
        self.streams = Streams(self._channel.stream_stream(f"{SERVICE}ModelStreamInfer"), streams, target)

    def call(self, verb: str, request: Any, timeout_s: float) -> Any:
        """A verb of the protocol by its name. Raises HybridgeError."""
        kind = getattr(messages, f"{verb}Response")
        method = self._channel.unary_unary(f"{SERVICE}{verb}", type(request).SerializeToString, kind.FromString)
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, self.target) from None

    def ask(self, asked: Asked, until: float, timeout_s: float) -> InferenceAnswer:
        """One inference, over the direct socket or a stream where one is free. Raises HybridgeError."""
        answer = self.direct.infer(asked, until, timeout_s)
        if answer is not None:
            return answer
        request = asked.message(timeout_s)
        answer = self.streams.infer(request, until, timeout_s)
        if answer is not None:
            return answer
        try:
            return answer_in(self.infer(request, timeout=timeout_s))
        except grpc.RpcError as error:
            raise error_of(error, self.target) from None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        if self.uses is not None and self.uses.leave():
            self.close()

    def retire(self) -> None:
        """Close it, once the calls under way have ended."""
        if self.uses is None or self.uses.retire():
            self.close()

    def close(self) -> None:
        self.direct.close()
        self.streams.close()
        self._channel.close()

"""ModelStreamInfer: requests of one stream, one after the other, in the stream's own thread.

No thread is changed between a message and its answer, which is what makes a stream about twice as fast as single calls.
Answers come in the order of requests and one request of a stream is in the server at a time: what a client sends ahead
waits in its own connection. What is wrong with a request is that answer's error message, and the stream goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from hybridge_edge.contract.errors import Overloaded, Unavailable
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.serving import requests, statuses
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.contents import Part
from hybridge_edge.serving.responses import size
from hybridge_edge.serving.wire_format import LENGTH_DELIMITED, varint

STATUS = "status"
"""Parameter beside an error message: the name of the status that a single call would have ended with."""
_NO_DEADLINE_S = 1e9
"""grpc gives a call without a deadline some 9e18 seconds."""
_RESPONSE = messages.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
_RESPONSE_TAG = bytes((_RESPONSE << 3 | LENGTH_DELIMITED,))
Answer = Callable[[bytes, Callable[[float | None], Call]], list[Part]]
"""Answers a request's bytes; it is given how to make the request's Call from the request's own timeout in seconds."""


def final_response() -> bytes:
    """The parameter that tells clients of streams that no more answers come to a request, written already."""
    response = messages.ModelInferResponse()
    response.parameters["triton_final_response"].bool_param = True
    return bytes(response.SerializeToString())


def timeout_of(context: Any, own_s: float | None) -> float | None:
    """The shorter one of a call's deadline and a request's own limit, in seconds; None where there is neither."""
    left = context.time_remaining()
    if left is None or left > _NO_DEADLINE_S:
        return own_s
    return float(left) if own_s is None else min(float(left), own_s)


class _Stream:
    """One stream and the call of it that is answered now, if any."""

    __slots__ = ("call", "context")

    def __init__(self, context: Any) -> None:
        self.context = context
        self.call: Call | None = None

    def ended(self) -> None:
        call = self.call
        if call is not None:
            call.cancel()


class Streams:
    """The streams of one transport.

    Args:
        most: streams at once; each holds a thread as long as it is open.
        peer: who calls over this transport.
    """

    def __init__(self, most: int, answer: Answer, peer: str) -> None:
        self._most = most
        self._answer = answer
        self._peer = peer
        self._lock = Lock()
        self._open: set[_Stream] = set()
        self._stopping = False
        self._final = final_response()

    def serve(self, incoming: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer a stream until it ends: serialized ModelInferRequests in, ModelStreamInferResponses out."""
        stream = self._enter(context)
        try:
            if not context.add_callback(stream.ended):
                return
            for message in incoming:
                yield self._one(stream, message)
                stream.call = None
                if self._stopping:
                    statuses.abort(context, Unavailable("The server stops.", "Connect again in a moment."))
        finally:
            with self._lock:
                self._open.discard(stream)

    def refuse(self) -> None:
        """No new stream, and those that are open end with the next message."""
        with self._lock:
            self._stopping = True

    def stop(self) -> None:
        """Streams in which nothing is answered end now, the others behind the answer they are at."""
        with self._lock:
            self._stopping = True
            idle = [stream for stream in self._open if stream.call is None]
        for stream in idle:
            stream.context.cancel()

    def _one(self, stream: _Stream, message: bytes) -> bytes:
        def begin(own_s: float | None) -> Call:
            call = stream.call = Call(timeout_of(stream.context, own_s), self._peer)
            if not stream.context.is_active():  # it may have ended before it could have told this call
                call.cancel()
            return call

        try:
            parts = self._answer(message, begin)
        except Exception as error:
            code, sentence = statuses.status(error)
            response = messages.ModelStreamInferResponse(error_message=sentence)
            response.infer_response.id = requests.id_of(message)
            response.infer_response.parameters[STATUS].string_param = code.name
            return bytes(response.SerializeToString())
        parts.append(self._final)
        return b"".join((_RESPONSE_TAG, varint(size(parts)), *parts))

    def _enter(self, context: Any) -> _Stream:
        stream = _Stream(context)
        with self._lock:
            room = len(self._open) < self._most and not self._stopping
            if room:
                self._open.add(stream)
        if not room:
            statuses.abort(
                context, Overloaded(f"{self._most} streams are open already.", "Close one, or send single requests.")
            )
        return stream

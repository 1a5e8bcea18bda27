"""ModelStreamInfer: requests of one stream, answered one after the other.

Answers come in the order of requests and one request of a stream is in the server at a time: what a client sends ahead
waits in its own connection. What is wrong with a request is that answer's error message, and the stream goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from hybridge_edge.contract.errors import Overloaded, Unavailable
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.http2.verbs import Caller
from hybridge_edge.serving import requests, statuses
from hybridge_edge.serving.call import Call, begin_for
from hybridge_edge.serving.contents import Part
from hybridge_edge.serving.responses import size
from hybridge_edge.serving.wire_format import LENGTH_DELIMITED, varint

STATUS = "status"
"""Parameter beside an error message: the name of the status that a single call would have ended with."""
_RESPONSE = messages.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER
_RESPONSE_TAG = bytes((_RESPONSE << 3 | LENGTH_DELIMITED,))
Answer = Callable[[bytes, Callable[[float | None], Call]], list[Part]]
"""Answers a request's bytes; it is given how to make the request's Call from the request's own timeout in seconds."""


def final_response() -> bytes:
    """The parameter that tells clients of streams that no more answers come to a request, written already."""
    response = messages.ModelInferResponse()
    response.parameters["triton_final_response"].bool_param = True
    return bytes(response.SerializeToString())


class Streams:
    """The streams of one transport.

    Args:
        most: streams at once. peer: who calls over this transport.
    """

    def __init__(self, most: int, answer: Answer, peer: str) -> None:
        self._most = most
        self._answer = answer
        self._peer = peer
        self._lock = Lock()
        self._open: set[Caller] = set()
        self._stopping = False
        self._final = final_response()

    def opened(self, stream: Caller) -> None:
        """A stream begins. Raises Overloaded, Unavailable where it may not."""
        with self._lock:
            if self._stopping:
                raise Unavailable("The server stops.", "Connect again in a moment.")
            if len(self._open) >= self._most:
                raise Overloaded(f"{self._most} streams are open already.", "Close one, or send single requests.")
            self._open.add(stream)

    def closed(self, stream: Caller) -> None:
        """A stream has ended, or has not begun."""
        with self._lock:
            self._open.discard(stream)

    def refuse(self) -> None:
        """No new stream, and those that are open end with the next message."""
        with self._lock:
            self._stopping = True

    def answer(self, message: bytes, stream: Caller) -> list[Part]:
        """A serialized ModelInferRequest in, a ModelStreamInferResponse out. Raises Unavailable once the server stops:
        the stream then ends."""
        if self._stopping:
            raise Unavailable("The server stops.", "Connect again in a moment.")
        try:
            parts = self._answer(message, begin_for(stream, self._peer))
        except Exception as error:
            code, sentence = statuses.status(error)
            response = messages.ModelStreamInferResponse(error_message=sentence)
            response.infer_response.id = requests.id_of(message)
            response.infer_response.parameters[STATUS].string_param = code.name
            return [bytes(response.SerializeToString())]
        parts.append(self._final)
        return [_RESPONSE_TAG, varint(size(parts)), *parts]

"""Callers: each sends one request, made beforehand, again and again, and takes the answer's bytes as they come.

What a caller itself costs is small and the same for every contender of its kind: no message is built or read inside the
loop. Answers are read and compared outside of it.
"""

from __future__ import annotations

import json
import socket
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, Protocol

import numpy
from numpy.typing import NDArray

from peers.servers.session import INPUT, OUTPUT, open_session

TIMEOUT_S = 60.0
_SERVICE = "/inference.GRPCInferenceService"
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each caller
)
_HEAD_END = b"\r\n\r\n"
_RTOL = _ATOL = 1e-3
Floats = NDArray[numpy.float32]


class WrongAnswer(Exception):
    """An answer came that is none, or has other numbers."""


class Caller(Protocol):
    """One connection and one request."""

    def ask(self) -> Any:
        """Send it and return what came, unread."""
        ...

    def read(self, answer: Any) -> Floats:
        """The numbers in what came. Raises WrongAnswer."""
        ...

    def close(self) -> None: ...


def check(caller: Caller, answer: Any, wanted: Floats) -> None:
    """Raises WrongAnswer where the numbers are not those wanted."""
    found = caller.read(answer).reshape(-1)
    if found.shape != wanted.reshape(-1).shape or not numpy.allclose(found, wanted.reshape(-1), _RTOL, _ATOL):
        raise WrongAnswer(f"{found[:4]} came, {wanted.reshape(-1)[:4]} is right")


class SessionCaller:
    """ONNX Runtime in this process: what no server can be faster than."""

    def __init__(self, graph: str, request: bytes, shape: tuple[int, ...]) -> None:
        self._session = _session(graph)
        self._inputs = {INPUT: numpy.frombuffer(request, "<f4").reshape(shape)}

    def ask(self) -> Any:
        return self._session.run([OUTPUT], self._inputs)

    def read(self, answer: Any) -> Floats:
        return numpy.asarray(answer[0])

    def close(self) -> None:
        pass


@lru_cache
def _session(graph: str) -> Any:
    """One for all callers, as in a server."""
    return open_session(graph)


class UnaryCaller:
    """A grpcio channel and ModelInfer."""

    def __init__(self, target: str, request: bytes) -> None:
        import grpc

        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._method = self._channel.unary_unary(f"{_SERVICE}/ModelInfer")
        self._request = request

    def ask(self) -> Any:
        return self._method(self._request, timeout=TIMEOUT_S)

    def read(self, answer: Any) -> Floats:
        from hybridge_edge.contract.protos import open_inference_pb2 as messages

        return _numbers(messages.ModelInferResponse.FromString(answer))

    def close(self) -> None:
        self._channel.close()


class StreamCaller:
    """A grpcio channel and one ModelStreamInfer: the next request goes when the answer to the last one came."""

    def __init__(self, target: str, request: bytes) -> None:
        import grpc

        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._ahead: SimpleQueue[bytes | None] = SimpleQueue()
        stream = self._channel.stream_stream(f"{_SERVICE}/ModelStreamInfer")
        self._answers = stream(iter(self._ahead.get, None))
        self._request = request

    def ask(self) -> Any:
        self._ahead.put(self._request)
        return next(self._answers)

    def read(self, answer: Any) -> Floats:
        from hybridge_edge.contract.protos import open_inference_pb2 as messages

        response = messages.ModelStreamInferResponse.FromString(answer)
        if response.error_message:
            raise WrongAnswer(response.error_message)
        return _numbers(response.infer_response)

    def close(self) -> None:
        self._ahead.put(None)
        self._answers.cancel()
        self._channel.close()


class DirectCaller:
    """A connection to the direct socket of ours, and an INFER; large requests lie in memory that was written once."""

    def __init__(self, target: str, request: bytes) -> None:
        import os

        from hybridge_edge.client.exchange import SHARED_BYTES
        from hybridge_edge.contract.protos import open_inference_pb2 as messages
        from hybridge_edge.direct import frames

        self._frames_of = frames
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(target)
        self._socket.sendall(frames.MAGIC)
        self._frames = frames.Frames(self._socket, _MAX_MESSAGE_BYTES)
        places = []
        if len(request) >= SHARED_BYTES:
            read = messages.ModelInferRequest.FromString(request)
            self._content = read.raw_input_contents[0]
            del read.raw_input_contents[:]
            request = read.SerializeToString()
            self._memory, descriptor = _memory(len(self._content))
            self._frames.send(frames.MAP, [], descriptor)
            os.close(descriptor)
            (number,) = frames.NUMBER.unpack(self._frames.receive()[1])
            places = [frames.Place(0, number, 0, len(self._content))]
        else:
            self._memory = None
        self._request = frames.asked(places, frames.Place(0, 0, 0, 0), [request])

    def ask(self) -> Any:
        if self._memory is not None:
            self._memory[:] = self._content  # a program's next image is another one
        self._frames.send(self._frames_of.INFER, self._request)
        return self._frames.receive()

    def read(self, answer: Any) -> Floats:
        from hybridge_edge.contract.protos import open_inference_pb2 as messages

        kind, body, _ = answer
        if kind != self._frames_of.INFER:
            raise WrongAnswer(": ".join(self._frames_of.read_refused(body)))
        return _numbers(messages.ModelInferResponse.FromString(self._frames_of.read_answered(body)[1]))

    def close(self) -> None:
        self._socket.close()


def _memory(size: int) -> tuple[Any, int]:
    """Sealed memory and its descriptor."""
    import fcntl
    import mmap
    import os

    from hybridge_edge.direct.segments import WANTED_SEALS

    descriptor = os.memfd_create("caller", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, WANTED_SEALS)
    return mmap.mmap(descriptor, size), descriptor


class HttpCaller:
    """A socket kept open, a POST of JSON, an answer with a length."""

    def __init__(self, target: str, request: bytes) -> None:
        host, _, port_and_path = target.partition(":")
        port, _, path = port_and_path.partition("/")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"POST /{path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(request)}\r\n\r\n"
        )
        self._request = head.encode() + request

    def ask(self) -> Any:
        self._socket.sendall(self._request)
        came = b""
        while (end := came.find(_HEAD_END)) < 0:
            came += self._more()
        head = came[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise WrongAnswer(repr(came[:200]))
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = came[end + len(_HEAD_END) :]
        while len(body) < length:
            body += self._more()
        return body

    def read(self, answer: Any) -> Floats:
        found = json.loads(answer)
        return numpy.asarray(found[OUTPUT] if isinstance(found, dict) else found, numpy.float32)

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> bytes:
        part = self._socket.recv(1 << 16)
        if not part:
            raise WrongAnswer("the connection ended")
        return part


def _numbers(response: Any) -> Floats:
    if response.raw_output_contents:
        return numpy.frombuffer(response.raw_output_contents[0], "<f4")
    if not response.outputs:
        raise WrongAnswer("an answer without outputs")
    return numpy.fromiter(response.outputs[0].contents.fp32_contents, numpy.float32)

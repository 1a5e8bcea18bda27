"""A front with TLS before a real gRPC server, its files, and clients of every kind."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Leaf, put

from hybridge_edge.front.process import Front
from hybridge_edge.front.tls_settings import TlsSettings
from hybridge_edge.front.tls_status import TlsStatus

METHOD = "/test.Echo/Call"
NAME = "press-7.plant.example"
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
           ("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 5000),
           ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))  # fmt: skip


class Echo(grpc.GenericRpcHandler):
    """Gives back what it gets; ``wait`` waits for a word, and a stream answers each message."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        self.asked = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.asked += 1
        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, context: requests)
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"wait":
            self.began.set()
            assert self.go.wait(20)
        return request


@dataclass
class Plant:
    """A front with its files, which tests replace under it."""

    folder: Path
    front: Front
    settings: TlsSettings
    authority: Authority
    trusted: list[Authority]
    """By whom servers may be vouched for, in the eyes of clients."""

    def leaf(self, *names: str, **how: object) -> Leaf:
        given = () if "raw" in how else names or (NAME,)
        return self.authority.leaf(*given, **how)  # type: ignore[arg-type]

    def channel(self, leaf: Leaf | None) -> grpc.Channel:
        roots = b"".join(one.certificate for one in self.trusted)
        shown = (leaf.key, leaf.certificate) if leaf is not None else (None, None)
        return grpc.secure_channel(self.front.tcp, grpc.ssl_channel_credentials(roots, *shown), options=OPTIONS)

    def call(self, leaf: Leaf | None) -> Callable[..., bytes]:
        return self.channel(leaf).unary_unary(METHOD)

    def connect(self) -> socket.socket:
        host, port = self.front.tcp.rsplit(":", 1)
        return socket.create_connection((host, int(port)), 5)

    def tls(self, leaf: Leaf, protocols: tuple[str, ...] = ("h2",)) -> ssl.SSLSocket:
        """A client that speaks no gRPC."""
        context = ssl.create_default_context(cadata="".join(one.certificate.decode() for one in self.trusted))
        context.load_cert_chain(*leaf.files(self.folder, "raw"))
        if protocols:
            context.set_alpn_protocols(protocols)
        return context.wrap_socket(self.connect(), server_hostname="localhost")

    def serve(self, leaf: Leaf) -> None:
        leaf.files(self.folder, "server")

    def list(self, *names: str) -> None:
        put(self.folder / "clients", "\n".join(names).encode())

    @property
    def status(self) -> TlsStatus:
        return TlsStatus.read(self.folder) or TlsStatus()

    def wait(self, condition: Callable[[TlsStatus], bool], seconds: float = 10.0) -> TlsStatus:
        until = time.monotonic() + seconds
        while not condition(self.status):
            assert time.monotonic() < until, self.status
            time.sleep(0.02)
        return self.status


def fails(call: Callable[..., bytes]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(b"x", timeout=5)
    return caught.value.code()

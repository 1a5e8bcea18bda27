"""A front with TLS, for the files of tests that are about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from certificates import Authority, put
from tls_plant import NAME, Echo, Plant

from hybridge_edge.front.process import Front
from hybridge_edge.front.tls_settings import TlsSettings


@pytest.fixture
def echo(short: Path) -> Iterator[Echo]:
    handler = Echo()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(40), handlers=(handler,), options=options)
    server.add_insecure_port(f"unix:{short}/network.sock")
    server.start()
    yield handler
    handler.go.set()
    server.stop(0).wait()


@pytest.fixture
def plant(short: Path, echo: Echo) -> Iterator[Plant]:
    authority = Authority()
    certificate, key = authority.server("edge-1.plant.example").files(short, "server")
    put(short / "ca.pem", authority.certificate)
    put(short / "clients", f"{NAME}\nspiffe://plant/press-8  # the newer one\n".encode())
    put(short / "revoked", b"")
    settings = TlsSettings(
        str(certificate), str(key), str(short / "ca.pem"), str(short / "clients"), str(short / "revoked"),
        look_s=0.05,
    )  # fmt: skip
    alive, held = os.pipe()
    front = Front("127.0.0.1:0", short / "network.sock", alive, settings)
    front.keep()
    one = Plant(short, front, settings, authority, [authority])
    one.wait(lambda status: status.not_after > 0)
    yield one
    front.stop()
    os.close(alive)
    os.close(held)

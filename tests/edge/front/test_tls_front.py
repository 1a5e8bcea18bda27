"""The front with TLS before a real gRPC server: who comes in, and what happens to the others."""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Leaf, put
from tls_plant import METHOD, NAME, OPTIONS, Echo, Plant, fails

from hybridge_edge.front.handshakes import MAX_HANDSHAKES_OF_HOST
from hybridge_edge.front.tls_status import RESULTS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tls.md"


def test_calls_pass_whole_in_both_directions_whatever_their_size(plant: Plant) -> None:
    call = plant.call(plant.leaf())
    for size in (0, 1, 100, 20_000, 300_000, 9_000_000):
        content = os.urandom(size)
        assert call(content, timeout=20) == content
    assert plant.call(plant.leaf("other.example", "spiffe://plant/press-8"))(b"by URI", timeout=5) == b"by URI"
    assert plant.call(plant.leaf("PRESS-7.Plant.Example"))(b"in capitals", timeout=5) == b"in capitals"


def test_many_callers_at_once_each_get_their_own_answer(plant: Plant) -> None:
    leaf = plant.leaf()

    def ask(number: int) -> None:
        call = plant.call(leaf)
        for turn in range(20):
            content = f"{number} {turn}".encode() * (1 + turn * 400)
            assert call(content, timeout=20, wait_for_ready=True) == content

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(ask, number) for number in range(8)]:
            future.result(60)


REFUSED: dict[str, Callable[[Plant], Leaf | None]] = {
    "no-certificate": lambda plant: None,
    "untrusted": lambda plant: Authority().leaf(NAME),
    "expired": lambda plant: plant.leaf(begins=-20.0, ends=-1.0),
    "not-yet-valid": lambda plant: plant.leaf(begins=1.0, ends=20.0),
    "wrong-purpose": lambda plant: plant.authority.server(NAME),
    "not-allowed": lambda plant: plant.leaf("press-70.plant.example", f"x.{NAME}", "spiffe://plant/press-8/x"),
}


@pytest.mark.parametrize("result", REFUSED)
def test_who_may_not_come_reaches_nothing_and_is_counted_by_reason(plant: Plant, echo: Echo, result: str) -> None:
    assert fails(plant.call(REFUSED[result](plant))) is grpc.StatusCode.UNAVAILABLE
    assert plant.wait(lambda status: status.handshakes[result] > 0).handshakes["ok"] == 0
    assert echo.asked == 0


def test_a_name_in_the_subject_alone_and_a_wildcard_count_for_nothing(plant: Plant, echo: Echo) -> None:
    plant.list("leaf")  # what every certificate here has as its subject's common name
    plant.wait(lambda status: status.clients == 1)
    for leaf in (plant.leaf(), plant.leaf("*.plant.example")):
        assert fails(plant.call(leaf)) is grpc.StatusCode.UNAVAILABLE
    assert echo.asked == 0
    plant.list("*.plant.example")
    assert "wildcards" in plant.wait(lambda status: bool(status.problem)).problem


@pytest.mark.parametrize("raw", [b"\xff\xfe", NAME.encode() + b"\0.evil.example", b"\xc3" + NAME.encode(), b" " * 100])
def test_names_that_are_no_names_are_nobodys_and_cost_nobody_anything(plant: Plant, echo: Echo, raw: bytes) -> None:
    process = plant.front._process
    assert process is not None
    assert fails(plant.call(plant.leaf(raw=raw))) is grpc.StatusCode.UNAVAILABLE
    assert plant.wait(lambda status: status.handshakes["not-allowed"] > 0)
    assert (echo.asked, process.poll()) == (0, None)


def test_what_is_no_tls_or_no_http2_is_let_go(plant: Plant, echo: Echo) -> None:
    assert fails(grpc.insecure_channel(plant.front.tcp, options=OPTIONS).unary_unary(METHOD))
    with plant.connect() as one:
        one.sendall(os.urandom(300))
        assert b"" in (one.recv(100), one.recv(100))  # an alert, and the end
    for protocols in ((), ("http/1.1",)):
        with plant.tls(plant.leaf(), protocols) as client:
            assert client.recv(100) == b""
    with plant.tls(plant.leaf()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while client.recv(100):  # the server's settings, perhaps, and the end
            pass
    status = plant.wait(lambda status: status.handshakes["no-h2"] == 2)
    assert status.handshakes["protocol"] >= 2
    assert echo.asked == 0


def test_an_old_tls_is_not_spoken(plant: Plant) -> None:
    context = ssl.create_default_context(cadata=plant.authority.certificate.decode())
    context.load_cert_chain(*plant.leaf().files(plant.folder, "old"))
    context.set_alpn_protocols(["h2"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(plant.connect(), server_hostname="localhost") as one:
        assert one.version() == "TLSv1.2"
        assert "GCM" in one.cipher()[0] or "POLY1305" in one.cipher()[0]
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError), context.wrap_socket(plant.connect(), server_hostname="localhost"):  # noqa: PT011
        pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_never_resumed_over_other_files(plant: Plant, version: ssl.TLSVersion) -> None:
    leaf = plant.leaf()
    context = ssl.create_default_context(cadata=plant.authority.certificate.decode())
    context.load_cert_chain(*leaf.files(plant.folder, "again"))
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version

    with context.wrap_socket(plant.connect(), server_hostname="localhost") as first:
        assert first.recv(9)
        session = first.session
    with context.wrap_socket(plant.connect(), server_hostname="localhost", session=session) as again:
        assert again.recv(9)
        assert again.session_reused == (version is ssl.TLSVersion.TLSv1_2)
    put(plant.folder / "revoked", f"sha256 {leaf.fingerprint}".encode())
    plant.wait(lambda status: status.revoked == 1)
    with suppress(OSError), context.wrap_socket(plant.connect(), server_hostname="localhost", session=session) as last:
        assert not last.session_reused
        assert not last.recv(9)
    assert plant.wait(lambda status: status.handshakes["revoked"] == 1).handshakes["ok"] == 2


def test_who_dawdles_in_the_handshake_is_few_and_let_go(plant: Plant, echo: Echo) -> None:
    plant.front.follow(replace(plant.settings, handshake_s=0.5))
    plant.wait(lambda status: status.rotations == 1)
    slow = [plant.connect() for _ in range(MAX_HANDSHAKES_OF_HOST + 2)]
    for one in slow:
        one.sendall(b"\x16\x03\x01")  # half of a record's head
    for one in slow:
        one.settimeout(10)
        with suppress(ConnectionResetError):  # what it had sent was never read
            assert one.recv(1) == b""
        one.close()
    ended = plant.wait(lambda status: sum(status.handshakes.values()) == len(slow)).handshakes
    assert ended["timed-out"] >= MAX_HANDSHAKES_OF_HOST
    assert ended["timed-out"] + ended["too-many"] == len(slow)
    assert plant.call(plant.leaf())(b"then", timeout=5) == b"then"
    assert echo.asked == 1


def test_handshakes_are_so_many_at_once_and_a_second_and_the_rest_waits(plant: Plant) -> None:
    plant.front.follow(replace(plant.settings, handshake_s=20.0))
    plant.wait(lambda status: status.rotations == 1)
    leaf = plant.leaf()

    def come(number: int) -> bytes:
        with plant.channel(leaf) as channel:
            return bytes(channel.unary_unary(METHOD)(b"x", timeout=20))

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(come, range(130))) == {b"x"}  # more than a second's worth, and nobody is refused
    assert plant.wait(lambda status: status.handshakes["ok"] >= 130).handshakes["too-many"] == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_a_handshake_with_anything_wrong_in_it_ends_and_nothing_else_does(plant: Plant, echo: Echo, seed: int) -> None:
    dice = random.Random(seed)
    call, process = plant.call(plant.leaf()), plant.front._process
    assert process is not None
    assert call(b"before", timeout=5) == b"before"
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    first = hello.read()
    for _ in range(40):
        wrong = bytearray(first[: dice.choice((len(first), dice.randrange(len(first))))])
        for _ in range(dice.choice((0, 1, 3, 30))):
            wrong[dice.randrange(len(wrong))] = dice.randrange(256)
        with plant.connect() as one, suppress(ConnectionError):
            one.sendall(bytes(wrong) + dice.randbytes(dice.choice((0, 10, 5000))))
            one.shutdown(socket.SHUT_WR)
            while one.recv(4096):
                pass
    assert call(b"after", timeout=5) == b"after"
    assert process.poll() is None
    status = plant.wait(lambda status: sum(status.handshakes.values()) == 41)
    assert status.handshakes["ok"] == echo.asked - 1 == 1


def test_a_revoked_certificate_does_not_come_and_its_connection_is_closed(plant: Plant, echo: Echo) -> None:
    stolen, lost, good = plant.leaf(), plant.leaf(), plant.leaf()
    calls = [plant.call(leaf) for leaf in (stolen, lost, good)]
    for call in calls:
        assert call(b"before", timeout=5) == b"before"
    stream = plant.channel(good).stream_stream("/test.Echo/Stream")
    entries = [f"sha256 {stolen.fingerprint.upper()}", f"serial {lost.read.serial_number:X}"]
    put(plant.folder / "revoked", "\n".join(entries).encode())
    assert plant.wait(lambda status: status.cut == 2).revoked == 2
    asked = echo.asked
    assert [fails(call) for call in calls[:2]] == [grpc.StatusCode.UNAVAILABLE] * 2
    assert echo.asked == asked
    assert plant.wait(lambda status: status.handshakes["revoked"] >= 2)
    assert calls[2](b"after", timeout=5) == b"after"
    assert list(stream(iter([b"a", b"b"]), timeout=5)) == [b"a", b"b"]


def test_who_is_struck_from_the_list_is_closed_in_the_middle_of_a_call(plant: Plant, echo: Echo) -> None:
    future = plant.channel(plant.leaf()).unary_unary(METHOD).future(b"wait", timeout=20)
    assert echo.began.wait(10)
    plant.list("somebody.else")
    with pytest.raises(grpc.RpcError):
        future.result(10)
    assert plant.wait(lambda status: status.cut == 1).connections == 0


def test_the_commands_of_the_page_make_what_the_server_takes(plant: Plant, tmp_path: Path) -> None:
    commands = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(commands) == 1
    subprocess.run(["bash", "-e", "-u", "-c", commands[0]], cwd=tmp_path, capture_output=True, check=True)
    authority = Authority()
    authority.certificate = (tmp_path / "ca.pem").read_bytes()
    plant.trusted.append(authority)
    put(plant.folder / "ca.pem", authority.certificate)
    plant.serve(Leaf((tmp_path / "server.pem").read_bytes(), (tmp_path / "server.key").read_bytes()))
    plant.wait(lambda status: "edge-1.plant.example" in status.names and status.rotations > 0)
    client = Leaf((tmp_path / "client.pem").read_bytes(), (tmp_path / "client.key").read_bytes())
    assert plant.call(client)(b"x", timeout=10, wait_for_ready=True) == b"x"
    assert set(re.findall(r"`([a-z0-9-]+)`", PAGE.read_text().split("| result | why |")[1].split("\n\n")[0])) == {
        *RESULTS
    }

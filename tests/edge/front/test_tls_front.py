"""The front with TLS before a real gRPC server: who comes in, what happens to the others, and what a rotation costs."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Leaf, put

from hybridge_edge.contract.errors import Refused
from hybridge_edge.front import allowed, certificates
from hybridge_edge.front.connection import Connection
from hybridge_edge.front.frames import DATA, END_HEADERS, GOAWAY, HEADERS, PREFACE, SETTINGS, Frames, goaway
from hybridge_edge.front.handshakes import MAX_HANDSHAKES_OF_HOST
from hybridge_edge.front.hosts import BUDGET_PER_S, Host
from hybridge_edge.front.process import Front
from hybridge_edge.front.tls import Session
from hybridge_edge.front.tls_settings import TlsSettings
from hybridge_edge.front.tls_status import RESULTS, TlsStatus

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tls.md"
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
        return self.authority.leaf(*(names or (NAME,)), **how)  # type: ignore[arg-type]

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


@pytest.fixture
def echo(short: Path) -> Iterator[Echo]:
    handler = Echo()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(40), handlers=(handler,), options=options)
    server.add_insecure_port(f"unix:{short}/network.sock")
    server.start()
    yield handler
    handler.go.set()
    server.stop(0)


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


def fails(call: Callable[..., bytes]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(b"x", timeout=5)
    return caught.value.code()


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


def test_broken_files_change_nothing_and_are_reported(plant: Plant) -> None:
    whole = Path(plant.settings.certificate).read_bytes()
    other, call = plant.authority.server(), plant.call(plant.leaf())
    before = plant.status.fingerprint
    for name, content, words in (
        ("server.pem", whole[: len(whole) // 2], "tlsCertificate and tlsKey cannot be used"),
        ("server.pem", other.certificate, "not that of the certificate"),
        ("server.pem", b"", "cannot be used"),
        ("server.key", b"-----BEGIN", "cannot be used"),
        ("ca.pem", b"nonsense", "tlsClientCa"),
        ("ca.pem", whole, "no certificate of an authority"),
        ("clients", b"", "0 names"),
        ("clients", b"not a name!", "neither a DNS name nor a URI"),
        ("revoked", b"0123", "serial HEX"),
    ):
        path = plant.folder / name
        good = path.read_bytes()
        put(path, content)
        assert words in plant.wait(lambda status: bool(status.problem)).problem
        put(path, good)
        plant.wait(lambda status: not status.problem)
    for leaf, words in (
        (plant.authority.server(begins=-9.0, ends=-1.0), "has expired"),
        (plant.authority.server(begins=1.0), "not valid yet"),
        (plant.authority.leaf("localhost"), "No client could use the certificate"),
    ):
        plant.serve(leaf)
        plant.wait(lambda status, words=words: words in status.problem)
    put(plant.folder / "server.key", other.key)
    (plant.folder / "server.key").chmod(0o644)
    put(plant.folder / "server.pem", other.certificate)
    assert "others may read" in plant.wait(lambda status: "0644" in status.problem).problem
    assert plant.status.fingerprint == before
    assert call(b"all the while", timeout=5) == b"all the while"
    (plant.folder / "server.key").chmod(0o600)
    assert plant.wait(lambda status: status.fingerprint == other.fingerprint).problem == ""


class Load:
    """Callers that ask without rest: some keep their connection, one makes a new one for each few calls."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.leaf = plant.leaf()
        self.stop = threading.Event()
        self.results: Counter[str] = Counter()
        self.shown: dict[int, Leaf] = {}
        """What each caller shows, since its newest call was answered."""

    def keep(self, number: int) -> None:
        leaf, call = self.leaf, self.plant.call(self.leaf)
        while not self.stop.is_set():
            if leaf is not self.leaf:
                leaf = self.leaf
                call = self.plant.call(leaf)
            self.ask(call)
            self.shown[number] = leaf

    def come_anew(self, number: int) -> None:
        while not self.stop.is_set():
            leaf = self.leaf
            with self.plant.channel(leaf) as channel:
                for _ in range(3):
                    self.ask(channel.unary_unary(METHOD))
            self.shown[number] = leaf

    def ask(self, call: Callable[..., bytes]) -> None:
        try:
            assert call(b"x" * 2000, timeout=10) == b"x" * 2000
            self.results["answered"] += 1
        except grpc.RpcError as error:
            self.results[f"{error.code().name} {error.details()}"] += 1
        time.sleep(0.002)

    def show(self, leaf: Leaf) -> None:
        """Have every caller come with another certificate."""
        self.leaf = leaf
        until = time.monotonic() + 10
        while set(map(id, self.shown.values())) != {id(leaf)}:
            assert time.monotonic() < until
            time.sleep(0.01)

    def more(self, count: int) -> None:
        """Wait for so many more answers."""
        wanted, until = self.results["answered"] + count, time.monotonic() + 20
        while self.results["answered"] < wanted and time.monotonic() < until:
            time.sleep(0.01)


def under_load(plant: Plant, happens: Callable[[Load], None]) -> Counter[str]:
    """What callers were told while something happened."""
    load = Load(plant)
    with ThreadPoolExecutor(3) as pool:
        callers = (load.keep, load.keep, load.come_anew)
        running = [pool.submit(one, number) for number, one in enumerate(callers)]
        try:
            load.more(30)
            happens(load)
            load.more(30)
        finally:
            load.stop.set()
        for one in running:
            one.result(20)
    assert load.results["answered"] > 60
    return load.results


def test_leaves_and_authorities_are_rotated_under_load_without_a_failed_call(plant: Plant) -> None:
    authorities = [plant.authority, Authority("second"), Authority("third")]
    plant.trusted += authorities[1:]

    def trust(*some: Authority) -> None:
        before = plant.status
        put(plant.folder / "ca.pem", b"".join(one.certificate for one in some))
        plant.wait(lambda status: status.rotations > before.rotations and status.renewed > before.renewed)

    def rotate(load: Load) -> None:
        for turn in range(20):
            leaf = authorities[turn // 7].server()
            plant.serve(leaf)
            plant.wait(lambda status, wanted=leaf.fingerprint: status.fingerprint == wanted)
            load.more(3)
            if turn in (6, 13):  # from an authority to the next: both, then the clients, then the new one alone
                old, new = authorities[turn // 7 : turn // 7 + 2]
                trust(old, new)
                load.show(new.leaf(NAME))
                trust(new)

    results = under_load(plant, rotate)
    assert plant.status.rotations >= 24
    assert plant.status.handshakes["untrusted"] == 0
    assert set(results) == {"answered"}, results
    assert fails(plant.call(plant.leaf())) is grpc.StatusCode.UNAVAILABLE, "the first authority is trusted no more"
    assert plant.wait(lambda status: status.handshakes["untrusted"] > 0)


def test_a_rotation_that_drops_connections_would_be_noticed(plant: Plant) -> None:
    def restart(load: Load) -> None:
        process = plant.front._process
        assert process is not None
        process.kill()
        process.wait()
        plant.front._process = None  # not its death, whose next start would wait
        plant.front.keep()

    results = under_load(plant, restart)
    assert any(said.startswith("UNAVAILABLE") for said in results)


def test_a_connection_that_is_old_enough_is_renewed_and_its_calls_are_answered(plant: Plant, echo: Echo) -> None:
    plant.front.follow(replace(plant.settings, connection_s=0.5))
    plant.wait(lambda status: status.rotations == 1)
    channel = plant.channel(plant.leaf())
    future = channel.unary_unary(METHOD).future(b"wait", timeout=20)
    assert echo.began.wait(10)
    plant.wait(lambda status: status.renewed >= 1)
    assert channel.unary_unary(METHOD)(b"on another one", timeout=5) == b"on another one"
    assert plant.wait(lambda status: status.handshakes["ok"] >= 2)
    echo.go.set()
    assert future.result(10) == b"wait"


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


def test_records_are_counted_however_they_come_and_a_flood_of_empty_ones_is_a_debt() -> None:
    stream = b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size) for size in (0, 1, 30, 16_000, 0, 700))
    authority = Authority()
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = authority.server().files(Path(folder), "server")
        put(Path(folder) / "ca.pem", authority.certificate)
        settings = TlsSettings(str(certificate), str(key), f"{folder}/ca.pem", NAME)
        credentials = certificates.make(certificates.read(settings), settings)
    for size in (1, 2, 5, 7, 100, 100_000):
        session = Session(credentials)
        assert sum(session.records(stream[at : at + size]) for at in range(0, len(stream), size)) == 6
    host = Host(BUDGET_PER_S, 0.0)
    host.owe(3 * BUDGET_PER_S, 0.0)
    assert host.in_debt(0.5)
    assert not host.spend(1, 0.9)
    assert not host.in_debt(1.1)


def test_names_and_revoked_certificates_are_read_strictly() -> None:
    assert allowed.read_names("a.b, C.d.\n# a comment\nspiffe://x/Y#z  # one\n\n", "x") == {
        ("DNS", "a.b"), ("DNS", "c.d"), ("URI", "spiffe://x/Y#z"),
    }  # fmt: skip
    assert allowed.read_revoked("serial 00AB:CD\nsha256 " + "A" * 64, "x") == {("serial", "abcd"), ("sha256", "a" * 64)}
    for text in ("", "a b", "*.x", "spiffe://*/x", "a\0b", "-a", "x" * 300, "ü.example"):
        with pytest.raises(Refused):
            allowed.read_names(text, "x")
    for text in ("serial", "serial xyz", "sha256 ab", "md5 ab", "abcd"):
        with pytest.raises(Refused):
            allowed.read_revoked(text, "x")


def test_a_client_without_a_word_for_goaway_is_told_the_last_call_and_the_end(plant: Plant) -> None:
    plant.front.follow(replace(plant.settings, connection_s=0.2))
    plant.wait(lambda status: status.rotations == 1)
    with plant.tls(plant.leaf()) as client:
        client.settimeout(10)
        client.sendall(PREFACE + bytes(3) + bytes([SETTINGS]) + bytes(5))
        said = b""
        while more := client.recv(1000):
            said += more
    assert said.index(goaway(2**31 - 1)) < said.index(goaway(0))
    assert said.endswith(goaway(0))


def test_a_connection_is_over_with_its_time_its_clients_certificate_and_its_authorities(plant: Plant) -> None:
    credentials = certificates.make(certificates.read(plant.settings), plant.settings)
    peer = allowed.Peer(frozenset(), "1", "f", not_after=1_000_000.0)
    here, there = socket.socketpair()
    with here, there:
        one = Connection(here, there, Host(BUDGET_PER_S, 0.0), Session(credentials), peer)
        now, wall, by = one.opened, 999_999.0, credentials.authorities
        assert not one.is_over_age(now + plant.settings.connection_s - 1, wall, by)
        assert one.is_over_age(now + plant.settings.connection_s + 1, wall, by)
        assert one.is_over_age(now, 1_000_001.0, by)
        assert one.is_over_age(now, wall, "other authorities")
        plain = Connection(here, there, Host(BUDGET_PER_S, 0.0))
        assert not plain.is_over_age(now + 1e9, 1e12, "")


def test_a_front_without_usable_files_lets_nobody_in_until_they_are_there(plant: Plant) -> None:
    missing = plant.folder / "server.key"
    kept = missing.read_bytes()
    missing.unlink()
    plant.wait(lambda status: "cannot be read" in status.problem)
    process = plant.front._process
    assert process is not None
    process.kill()
    process.wait()
    plant.front._process = None
    plant.front.keep()
    plant.wait(lambda status: status.not_after == 0)
    call = plant.call(plant.leaf())
    assert fails(call) is grpc.StatusCode.UNAVAILABLE
    assert plant.wait(lambda status: status.handshakes["not-ready"] > 0).state(time.time()) == "no-certificate"
    put(missing, kept)
    assert call(b"now", timeout=10, wait_for_ready=True) == b"now"


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SAID = frame(SETTINGS, bytes(6)) + frame(HEADERS, b"h" * 40, 0, 1) + frame(9, b"c" * 9, END_HEADERS, 1)
SAID += frame(DATA, b"d" * 70, 0, 1) + frame(DATA, b"", 1, 1)
BORDERS = {15, 15 + 49 + 18, 15 + 49 + 18 + 79, len(SAID)}


@pytest.mark.parametrize("size", [1, 3, 9, 10, 16, 50, 100, 1000])
def test_a_word_of_the_front_stands_between_frames_and_never_before_the_first_or_inside_headers(size: int) -> None:
    seen: list[tuple[int, int]] = []
    for start in range(len(SAID) + 1):
        frames = Frames(lambda *found: True, client=False)
        found, at = None, 0
        while at < len(SAID) and found is None:
            piece = SAID[at : at + (size if at >= start else 1)]
            frames.pass_on(piece)
            if at >= start and frames.border >= 0:
                found = at + frames.border
            at += len(piece)
        if found is not None:
            seen.append((start, found))
            assert found in BORDERS
    assert seen
    assert goaway(5) == frame(GOAWAY, (5).to_bytes(4, "big") + bytes(4))

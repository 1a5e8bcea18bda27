"""Files of TLS that change under load, connections that have an end, and what of it a caller notices: nothing (S17)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
from certificates import SERVER, Authority, Leaf, put
from tls_plant import METHOD, NAME, Echo, Plant, fails

from hybridge_edge.http2.frames import PREFACE, SETTINGS, goaway


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
        for _ in range(8):  # one of them meets a call
            process = plant.front._process
            assert process is not None
            process.kill()
            process.wait()
            plant.front._process = None  # not its death, whose next start would wait
            plant.front.keep()
            load.more(3)

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
        (plant.authority.leaf(raw=b"\xff", usage=SERVER), "cannot be read"),
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

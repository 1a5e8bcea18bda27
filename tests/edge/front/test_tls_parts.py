"""What TLS in the front is made of, without a network: lists, records, places between frames, ages."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Authority, put
from tls_plant import NAME

from hybridge_edge.contract.errors import Refused
from hybridge_edge.front import allowed, certificates
from hybridge_edge.front.connection import Connection
from hybridge_edge.front.frames import Frames
from hybridge_edge.front.hosts import BUDGET_PER_S, Host
from hybridge_edge.front.tls import Session
from hybridge_edge.front.tls_settings import TlsSettings
from hybridge_edge.http2.frames import DATA, END_HEADERS, GOAWAY, HEADERS, SETTINGS, goaway


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


def test_who_may_come_is_on_the_list_not_revoked_and_not_out_of_date() -> None:
    lists = allowed.Allowed(frozenset({("DNS", "a.b")}), frozenset({("serial", "7"), ("sha256", "f" * 64)}))
    peer = allowed.Peer(frozenset({("DNS", "a.b"), ("URI", "x:y")}), "8", "e" * 64, 100.0)
    assert lists.refusal(peer) == lists.refusal(peer, 99.0) == ""
    assert lists.refusal(peer, 101.0) == "expired"
    assert lists.refusal(replace(peer, serial="7")) == lists.refusal(replace(peer, fingerprint="f" * 64)) == "revoked"
    assert lists.refusal(replace(peer, names=frozenset({("URI", "a.b"), ("DNS", "b")}))) == "not-allowed"


def test_records_are_counted_however_they_come_and_a_flood_of_empty_ones_is_a_debt(tmp_path: Path) -> None:
    stream = b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size) for size in (0, 1, 30, 16_000, 0, 700))
    credentials = made(tmp_path)
    for size in (1, 2, 5, 7, 100, 100_000):
        session = Session(credentials)
        assert sum(session.records(stream[at : at + size]) for at in range(0, len(stream), size)) == 6
    host = Host(BUDGET_PER_S, 0.0)
    host.owe(3 * BUDGET_PER_S, 0.0)
    assert host.in_debt(0.5)
    assert not host.spend(1, 0.9)
    assert not host.in_debt(1.1)


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


def made(folder: Path) -> certificates.Credentials:
    authority = Authority()
    certificate, key = authority.server().files(folder, "server")
    put(folder / "ca.pem", authority.certificate)
    settings = TlsSettings(str(certificate), str(key), str(folder / "ca.pem"), NAME)
    return certificates.make(certificates.read(settings), settings)


def test_a_connection_is_over_with_its_time_its_clients_certificate_and_its_authorities(tmp_path: Path) -> None:
    credentials = made(tmp_path)
    peer = allowed.Peer(frozenset(), "1", "f", not_after=1_000_000.0)
    here, there = socket.socketpair()
    with here, there:
        one = Connection(here, there, Host(BUDGET_PER_S, 0.0), Session(credentials), peer)
        now, wall, by = one.opened, 999_999.0, credentials.authorities
        assert not one.is_over_age(now + credentials.settings.connection_s - 1, wall, by)
        assert one.is_over_age(now + credentials.settings.connection_s + 1, wall, by)
        assert one.is_over_age(now, 1_000_001.0, by)
        assert one.is_over_age(now, wall, "other authorities")
        plain = Connection(here, there, Host(BUDGET_PER_S, 0.0))
        assert not plain.is_over_age(now + 1e9, 1e12, "")


@pytest.mark.parametrize("module", ["hybridge_edge.front.__main__", "hybridge_edge.supervisor"])
def test_who_has_no_tls_loads_no_openssl(module: str) -> None:
    program = f"import sys, {module} as _; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "hybridge_edge" in loaded
    assert not {"ssl", "_ssl", "hashlib", "_hashlib", "cryptography"} & set(loaded)

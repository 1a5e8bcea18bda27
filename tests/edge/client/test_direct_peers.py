"""Peers of the direct socket that mean harm: wrong sizes, memory that shrinks, noise; nothing is left of any."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
from direct_peers import ECHO, PATIENCE_S, Peer, eventually, mapped, memory, wide

from hybridge_edge.client import Client
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.direct import frames, segments, server
from hybridge_edge.direct.frames import ERROR, FULL, INFER, MAP, NUMBER, UNMAP, Place

Right = Callable[..., None]


@pytest.fixture
def peer(direct: Any) -> Iterator[Peer]:
    one = Peer(direct)
    yield one
    one.close()
    assert eventually(lambda: mapped(direct) == 0)
    assert eventually(lambda: not direct.direct._open)
    with Client(direct.target, streams=0) as client:  # and nobody else has felt anything
        assert numpy.array_equal(client.infer(ECHO, {"x": wide()}).outputs["y"], wide())


def test_memory_that_could_be_made_shorter_is_not_taken(peer: Peer, tmp_path: Path) -> None:
    for seals in (0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW):
        assert "sealed against shrinking and growing" in peer.refused(MAP, [], memory(4096, seals))
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(4096)
        assert "no memfd" in peer.refused(MAP, [], file.fileno())
    with tempfile.TemporaryFile() as pipe_like:
        assert "no memfd" in peer.refused(MAP, [], pipe_like.fileno())
    reading, writing = os.pipe()
    assert "no memfd" in peer.refused(MAP, [], reading)
    os.close(reading), os.close(writing)
    assert "No descriptor" in peer.refused(MAP, [])
    sealed = memory(4096)
    with pytest.raises(PermissionError):  # which is why a sealed one may be mapped
        os.ftruncate(sealed, 100)
    assert peer.say(MAP, [], sealed)[0] == MAP


def test_memory_of_a_wrong_size_or_not_to_be_written_is_refused(peer: Peer) -> None:
    assert "0 bytes" in peer.refused(MAP, [], memory(0))
    assert "Share 1 to" in peer.refused(MAP, [], memory(segments.MAX_SEGMENT_BYTES + 1))
    both = segments.WANTED_SEALS | fcntl.F_SEAL_WRITE
    assert "cannot be mapped for reading and writing" in peer.refused(MAP, [], memory(4096, both))


def test_a_descriptor_closed_by_its_sender_stays_what_it_was(peer: Peer) -> None:
    values = wide()
    descriptor = memory(values.nbytes, content=values.tobytes())
    (number,) = NUMBER.unpack(peer.say(MAP, [], descriptor)[1])
    os.close(descriptor)
    said, body = peer.say(INFER, peer.request(ECHO, values, [Place(0, number, 0, values.nbytes)]))
    assert said == INFER
    _, message = frames.read_answered(body)
    assert messages.ModelInferResponse.FromString(message).raw_output_contents[0] == values.tobytes()


def test_places_outside_a_segment_or_in_none_are_refused(peer: Peer) -> None:
    values = wide()
    (number,) = NUMBER.unpack(peer.say(MAP, [], memory(values.nbytes))[1])
    for place in (
        Place(0, number, 4, values.nbytes),
        Place(0, number, 2**63, values.nbytes),
        Place(0, number, 2**64 - 1, 2**64 - 1),
        Place(0, number + 1, 0, values.nbytes),
        Place(0, 0, 0, values.nbytes),
        Place(0, number, 0, values.nbytes - 4),
        Place(7, number, 0, values.nbytes),
    ):
        assert peer.refused(INFER, peer.request(ECHO, values, [place])), place
    twice = [Place(0, number, 0, 4), Place(0, number, 0, 4)]
    assert "twice" in peer.refused(INFER, peer.request(ECHO, values, twice))
    many = [Place(index, number, 0, values.nbytes) for index in range(frames.MAX_PLACED)]
    assert "too large" in peer.refused(INFER, peer.request(ECHO, values, many))
    for room in (Place(0, number, 0, values.nbytes + 1), Place(0, 9, 0, 8)):
        assert peer.refused(INFER, peer.request(ECHO, values, (), room))
    assert peer.say(INFER, peer.request(ECHO, values, [Place(0, number, 0, values.nbytes)]))[0] == INFER


def test_segments_are_bounded_unmapped_once_and_gone_with_their_connection(peer: Peer, direct: Any) -> None:
    numbers = [NUMBER.unpack(peer.say(MAP, [], memory(4096))[1])[0] for _ in range(segments.MAX_SEGMENTS)]
    assert "mapped already" in peer.refused(MAP, [], memory(4096))
    assert mapped(direct) == 4096 * len(numbers)
    assert peer.say(UNMAP, [NUMBER.pack(numbers[0])])[0] == UNMAP
    assert "no segment" in peer.refused(UNMAP, [NUMBER.pack(numbers[0])])
    assert peer.say(MAP, [], memory(4096))[0] == MAP
    other = Peer(direct)
    values = wide()
    assert "no segment" in other.refused(INFER, other.request(ECHO, values, [Place(0, numbers[1], 0, 4)]))
    other.close()


@pytest.mark.parametrize(
    "spoken",
    [
        b"",
        b"\0" * 64,
        frames.HEAD.pack(2**32 - 1, INFER),
        frames.HEAD.pack(4, INFER) + b"\xff" * 4,
        frames.HEAD.pack(frames.ASKED.size, INFER) + frames.ASKED.pack(60_000, 0, 0, 0),
        frames.HEAD.pack(0, 99),
        frames.HEAD.pack(5, UNMAP) + b"12345",
        frames.HEAD.pack(2, UNMAP) + b"\1\0" + b"and more",
    ],
)
def test_what_is_no_frame_ends_its_connection_alone(spoken: bytes, direct: Any, kit: ModuleType, right: Right) -> None:
    peer = Peer(direct)
    peer.socket.sendall(spoken)
    peer.socket.shutdown(socket.SHUT_WR)
    while peer.socket.recv(4096):
        pass
    peer.close()
    stranger = Peer(direct, b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises((ConnectionError, frames.Ended)):
        stranger.frames.receive(time.monotonic() + PATIENCE_S)
    stranger.close()
    with Client(direct.target, streams=0) as client:
        right(client.infer("watch", {"window": kit.window()}), kit.window())


def test_a_descriptor_with_another_frame_is_closed_and_refused(peer: Peer, kit: ModuleType) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        descriptor = memory(4096)
        assert "takes none" in peer.refused(INFER, peer.request("watch", kit.window()), descriptor)
        os.close(descriptor)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the server is in this process


def test_seeded_noise_is_answered_or_ends_the_connection(direct: Any, kit: ModuleType, right: Right) -> None:
    chance = random.Random(11)
    good = b"".join(Peer.request("watch", kit.window()))
    for _ in range(300):
        body = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        peer = Peer(direct)
        said, answer = peer.say(INFER, [bytes(body[: chance.randint(0, len(body))])])
        assert said in (INFER, ERROR)
        for word in (b"Traceback", b"/site-packages", b".py"):
            assert word not in answer
        peer.close()
    with Client(direct.target, streams=0) as client:
        right(client.infer("watch", {"window": kit.window()}), kit.window())


@pytest.mark.parametrize("connections", [int(os.environ.get("HYBRIDGE_TEST_CONNECTIONS", "300"))])
def test_connections_leave_nothing_behind(connections: int, direct: Any) -> None:
    """100,000 of them: HYBRIDGE_TEST_CONNECTIONS=100000."""
    values = wide()

    def one(number: int) -> None:
        peer = Peer(direct)
        descriptor = memory(values.nbytes)
        (segment,) = NUMBER.unpack(peer.say(MAP, [], descriptor)[1])
        os.close(descriptor)
        if number % 3:
            peer.say(INFER, peer.request(ECHO, values, [Place(0, segment, 0, values.nbytes)]))
        elif number % 2:
            peer.send(INFER, peer.request(ECHO, values, [Place(0, segment, 0, values.nbytes)]))
        peer.close()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def held() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(list(Path("/proc/self/fd").iterdir())), maps.count("memfd:test")

    for number in range(200):  # the fixture remembers some requests, and the allocator some pages
        one(number)
    assert eventually(lambda: not direct.direct._open)
    before, bytes_before = held(), resident()
    for number in range(connections):
        one(number)
    assert eventually(lambda: not direct.direct._open)
    assert eventually(lambda: mapped(direct) == 0)
    assert eventually(lambda: held() <= before)
    # Two KiB a connection would be seen.
    assert resident() - bytes_before < 32 * 2**20 + 2048 * connections


def test_a_stop_ends_idle_connections_and_a_full_server_says_so(direct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Peer(direct)
    assert idle.refused(UNMAP, [NUMBER.pack(1)])
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    late = Peer(direct)
    assert late.frames.receive(time.monotonic() + PATIENCE_S)[0] == FULL
    late.close()
    direct.direct.stop()
    with pytest.raises(frames.Ended):
        idle.frames.receive(time.monotonic() + PATIENCE_S)
    idle.close()

"""Connections with sockets and threads: slow readers, silent ones, too many of anything."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from h2_peer import START, Answers, client, frame, framed, headers

from hybridge_edge import runtime
from hybridge_edge.http2 import frames, listener
from hybridge_edge.http2.connection import Limits
from hybridge_edge.http2.listener import MESSAGES_IN_MEMORY, Listener
from hybridge_edge.http2.verbs import Verb
from hybridge_edge.serving import statuses

SOON_S = 15.0
LIMIT = 1024 * 1024


def eventually(ask: Callable[[], bool]) -> bool:
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if ask():
            return True
        time.sleep(0.01)
    return False


def connect(path: Path, receive: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(SOON_S)
    if receive:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    made.connect(str(path))
    return made


def stub(path: Path, verb: str, **options: int) -> Callable[..., bytes]:
    channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.max_receive_message_length", 1 << 26)])
    return channel.unary_unary(f"/t/{verb}")


def test_answers_larger_than_every_buffer_come_whole_however_slowly_they_are_read(listen: Callable[..., Path]) -> None:
    """An answer is cut off by a full socket in a thread that does not read; somebody must hear of the room later."""
    ask = stub(listen(), "Echo")
    message = os.urandom(LIMIT - 100)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: ask(message, timeout=SOON_S), range(60)))
    assert all(answer == message for answer in answers)


def test_a_reader_that_stops_reading_holds_up_nobody_and_is_let_go(
    listen: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PIECE_S", 1.0)
    monkeypatch.setattr(listener, "TICK_S", 0.1)
    path = listen()
    stuck = connect(path, receive=4096)
    peer = client()
    peer.update_settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
    peer.increment_flow_control_window(1 << 30)
    stuck.sendall(peer.data_to_send())
    peer.receive_data(stuck.recv(65536))  # the windows that it gives
    for _ in range(3):
        number = peer.get_next_available_stream_id()
        peer.send_headers(number, headers())
        for start in range(0, 800_000, 16_000):
            peer.send_data(number, framed(bytes(800_000 - 5))[start : start + 16_000], end_stream=start == 784_000)
        with suppress(BrokenPipeError):  # it is not read from either, and then let go
            stuck.sendall(peer.data_to_send())
    ask = stub(path, "Echo")
    for _ in range(20):
        assert ask(b"other", timeout=SOON_S) == b"other"
    received = 0
    with stuck:
        while data := stuck.recv(65536):
            received += len(data)
    assert received < 2_400_000  # it was not waited for


def test_whoever_says_nothing_or_half_a_frame_or_does_not_answer_is_let_go(
    listen: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENING_S", "PIECE_S", "SILENCE_S", "ANSWER_S"):
        monkeypatch.setattr(listener, name, 0.5)
    monkeypatch.setattr(listener, "TICK_S", 0.05)
    path = listen()
    silent, half, deaf = connect(path), connect(path), connect(path)
    half.sendall(START + b"\0\0")
    deaf.sendall(START)
    channel = grpc.insecure_channel(f"unix:{path}")  # the control: it answers pings, and stays
    ask = channel.unary_unary("/t/Echo")
    assert ask(b"first", timeout=SOON_S) == b"first"
    said = {}
    for name, one in (("silent", silent), ("half", half), ("deaf", deaf)):
        data = b""
        while more := one.recv(65536):
            data += more
        said[name] = data
        one.close()
    assert all(b"Too slow." in data for data in said.values())
    assert b"hybridge" in said["deaf"]  # it was asked before
    states: list[grpc.ChannelConnectivity] = []
    channel.subscribe(states.append)
    time.sleep(1.5)
    assert ask(b"still", timeout=SOON_S) == b"still"
    assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states


def test_more_connections_than_there_may_be_are_closed_and_room_comes_back(
    listen: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 5)
    path = listen()
    held = [connect(path) for _ in range(5)]
    for one in held:
        assert one.recv(1)
    with connect(path) as over:
        assert over.recv(1) == b""
    held.pop().close()

    def let_in() -> bool:
        with connect(path) as again:
            return again.recv(1) != b""

    assert eventually(let_in)
    for one in held:
        one.close()


def test_health_is_answered_while_every_other_place_is_taken(listen: Callable[..., Path], verbs: object) -> None:
    path = listen(threads=3)
    wait, other, quick = (stub(path, verb) for verb in ("Wait", "Other", "Quick"))
    calls = [wait.future(b"w", timeout=60) for _ in range(10)] + [other.future(b"o", timeout=60) for _ in range(10)]
    for _ in range(3 + listener.OTHERS):
        assert verbs.entered.acquire(timeout=SOON_S)
    assert not verbs.entered.acquire(timeout=0.2)  # the others wait
    for _ in range(20):
        assert quick(b"q", timeout=SOON_S) == b"q"
    verbs.go.set()
    assert [call.result() for call in calls] == [b"w"] * 10 + [b"o"] * 10


def test_large_messages_that_come_in_at_once_are_bounded_together_and_room_comes_back(
    listen: Callable[..., Path],
) -> None:
    path = listen()
    held = []
    for number in range(MESSAGES_IN_MEMORY + 1):
        one, peer = connect(path), client()
        peer.send_headers(1, headers())
        peer.send_data(1, framed(bytes(LIMIT - 5))[:1000])
        one.sendall(peer.data_to_send())
        answers = Answers()
        one.settimeout(0.3 if number < MESSAGES_IN_MEMORY else SOON_S)
        try:
            while 1 not in answers.ended:
                answers.take(peer, peer.receive_data(one.recv(65536)))
                one.sendall(peer.data_to_send())
        except TimeoutError:
            pass
        assert (1 in answers.ended) == (number == MESSAGES_IN_MEMORY)
        held.append(one)
    assert answers.status(1) == "8"
    assert "large messages" in answers.fields[1]["grpc-message"]
    held[0].close()
    ask = stub(path, "Echo")

    def goes() -> bool:
        try:
            return len(ask(bytes(LIMIT - 5), timeout=SOON_S)) == LIMIT - 5
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED

    assert eventually(goes)
    for one in held:
        one.close()


def test_large_messages_count_until_they_are_answered(listen: Callable[..., Path], verbs: object) -> None:
    path = listen(threads=2)  # the others wait for a thread, and are in memory all the same
    wait, message = stub(path, "Wait"), bytes(LIMIT - 5)
    held = [wait.future(message, timeout=60) for _ in range(MESSAGES_IN_MEMORY)]
    for _ in range(2):
        assert verbs.entered.acquire(timeout=SOON_S)
    time.sleep(0.3)  # the others have come whole
    with pytest.raises(grpc.RpcError) as caught:
        wait(message, timeout=SOON_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    verbs.go.set()
    assert [len(call.result()) for call in held] == [len(message)] * MESSAGES_IN_MEMORY
    assert len(wait(message, timeout=SOON_S)) == len(message)


def test_the_end_of_a_connection_ends_its_calls(listen: Callable[..., Path], verbs: object) -> None:
    one, peer = connect(listen()), client()
    peer.send_headers(1, headers("/t/Wait"))
    peer.send_data(1, framed(b"a"), end_stream=True)
    one.sendall(peer.data_to_send())
    assert verbs.entered.acquire(timeout=SOON_S)
    assert not verbs.gone.is_set()
    one.close()
    assert verbs.gone.wait(SOON_S)


def test_a_fault_is_said_before_the_connection_ends_and_harms_no_other_one(listen: Callable[..., Path]) -> None:
    path = listen()
    ask = stub(path, "Echo")
    assert ask(b"a", timeout=SOON_S) == b"a"
    with connect(path) as one:
        one.sendall(START + frame(frames.DATA, 0, 5, b"a"))
        data = b""
        while more := one.recv(65536):
            data += more
    answers, peer = Answers(), client()
    answers.take(peer, peer.receive_data(data))
    assert answers.goodbye == frames.PROTOCOL_ERROR
    assert b"DATA of no stream" in data
    assert ask(b"b", timeout=SOON_S) == b"b"


def test_a_failure_of_ours_is_an_answer_and_an_error_in_the_log(
    listen: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(listen(), "Fail")(b"a", timeout=SOON_S)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    assert "/secret" in caplog.text


@pytest.mark.parametrize("sentence", ["", "50 % of “it” failed\n", "x" * 4000])
def test_sentences_reach_the_caller_as_they_are(listen: Callable[..., Path], verbs: object, sentence: str) -> None:
    from hybridge_edge.contract.errors import InvalidInput

    def refuse(message: bytes, caller: object) -> list[bytes]:
        raise InvalidInput(sentence or "x", "")

    verbs.table[b"/t/Echo"] = type(verbs.table[b"/t/Echo"])(refuse)
    with pytest.raises(grpc.RpcError) as caught:
        stub(listen(), "Echo")(b"a", timeout=SOON_S)
    said = caught.value.details()
    assert said.startswith((sentence or "x")[:900].strip())


def test_many_callers_of_one_and_of_many_connections_get_their_own_answers(listen: Callable[..., Path]) -> None:
    path = listen(threads=16)
    errors: list[BaseException] = []
    shared = stub(path, "Echo")

    def ask(caller: int) -> None:
        try:
            mine = shared if caller % 2 else stub(path, "Echo")
            for number in range(100):
                message = b"%d/%d" % (caller, number) * (number * 7 + 1)
                assert mine(message, timeout=SOON_S) == message
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_listener_that_is_closed_leaves_no_thread_and_no_descriptor(short: Path) -> None:
    def held() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def one(number: int) -> None:
        verbs = {b"/t/Echo": Verb(lambda message, caller: [message])}
        path = short / f"c{number}.sock"
        made = Listener(runtime.listen(path, 8), "closed", verbs, statuses.status, Limits(LIMIT, 8), 4)
        made.start()
        with connect(path) as peer:
            peer.sendall(START)
            assert peer.recv(1)
            made.close()
            while peer.recv(65536):
                pass

    one(0)
    before = held()
    for number in range(1, 6):
        one(number)
    assert eventually(lambda: held() <= before)


LEAK = """
import sys, socket, resource, os, gc, threading, time
from pathlib import Path
from hybridge_edge import runtime
from hybridge_edge.http2.connection import Limits
from hybridge_edge.http2.listener import Listener
from hybridge_edge.http2.verbs import Verb
from h2_peer import client, headers, framed
path = Path(sys.argv[1])
verbs = {b"/t/Echo": Verb(lambda m, c: [m])}
server = Listener(runtime.listen(path, 64), "leak", verbs, lambda e: (2, ""), Limits(1 << 20, 8), 4)
server.start()
def go(count):
    for number in range(count):
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            peer = client()
            peer.send_headers(1, headers())
            peer.send_data(1, framed(bytes(100)), end_stream=number % 3 == 0)
            one.sendall(peer.data_to_send()[: None if number % 5 else 80])
            if number % 2:
                one.recv(10)
def held():
    gc.collect()
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    return memory, len(os.listdir("/proc/self/fd")), threading.active_count(), len(server._channels)
def settled():
    until = time.monotonic() + 10
    while server._channels and time.monotonic() < until:
        time.sleep(0.01)
    return held()
go(300); before = settled(); go(int(sys.argv[2])); after = settled()
print(*(b - a for a, b in zip(before, after)), after[3])
"""


def test_connections_that_came_and_went_leave_nothing(short: Path) -> None:
    count = int(os.environ.get("HYBRIDGE_TEST_CONNECTIONS", "1500"))
    kits = Path(__file__).resolve().parents[2] / "kits"
    done = subprocess.run(
        [sys.executable, "-c", LEAK, str(short / "l.sock"), str(count)],
        capture_output=True, text=True, timeout=600, check=True, env={**os.environ, "PYTHONPATH": str(kits)},
    )  # fmt: skip
    memory, descriptors, _, _, open_now = map(int, done.stdout.split())
    assert memory < 8_000_000
    assert (descriptors, open_now) == (0, 0)

"""The protocol without a socket: against h2, against every splitting of its bytes, and against bytes that are wrong."""

from __future__ import annotations

import gzip
import random
import struct
import zlib

import hpack
import pytest
from h2_peer import HEADERS, LIMIT, START, Answers, Server, ask, client, exchange, framed, headers, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridge_edge.http2 import frames
from hybridge_edge.http2.connection import CONNECTION_WINDOW, MAX_AHEAD, STREAM_WINDOW
from hybridge_edge.http2.heads import Heads


@pytest.mark.parametrize("size", [0, 1, 100, 16_379, 16_380, 65_530, 65_531, 300_000, LIMIT])
def test_h2_gets_back_what_it_sent(size: int) -> None:
    server, peer, answers = Server(), client(), Answers()
    message = random.Random(size).randbytes(size)
    for _ in range(3):
        number = ask(server, peer, answers, message)
        assert answers.messages(number) == [message]
        assert (answers.status(number), answers.fields[number][":status"]) == ("0", "200")
        assert answers.fields[number]["content-type"] == "application/grpc"
        assert number in answers.ended
    assert server.connection.streams == {}
    assert server.reserved == 0


def test_a_stream_answers_message_by_message_and_ends_with_its_client() -> None:
    server, peer, answers = Server(), client(), Answers()
    peer.send_headers(1, headers("/t/Stream"))
    sent = [bytes([n]) * n * 50 for n in range(20)]
    for message in sent:
        peer.send_data(1, framed(message))
        exchange(server, peer, answers)
    assert answers.messages(1) == sent
    assert 1 not in answers.ended
    peer.end_stream(1)
    exchange(server, peer, answers)
    assert 1 in answers.ended
    assert answers.status(1) == "0"


def test_messages_sent_ahead_are_answered_in_their_order_one_at_a_time_and_their_number_is_bounded() -> None:
    server, peer, answers = Server(waits=True), client(), Answers()
    peer.send_headers(1, headers("/t/Stream"))
    sent = [b"%d" % n for n in range(50)]
    peer.send_data(1, b"".join(map(framed, sent)), end_stream=True)
    exchange(server, peer, answers)
    assert len(server.waiting) == 1
    server.answer()
    exchange(server, peer, answers)
    assert answers.messages(1) == sent
    peer.send_headers(3, headers("/t/Stream"))
    exchange(server, peer, answers)
    for _ in range(MAX_AHEAD // 512 + 1):
        peer.send_data(3, framed(b"") * 512)
        exchange(server, peer, answers)
    assert answers.status(3) == "8"


@pytest.mark.parametrize("size", [100, 60_000, 600_000, 3_000_000])
def test_what_a_stream_s_client_sends_ahead_is_bounded_in_bytes_and_goes_on_with_the_answers(size: int) -> None:
    server, peer, answers = Server(waits=True), client(), Answers()
    exchange(server, peer, answers)
    peer.send_headers(1, headers("/t/Stream"))
    count = min(4 * STREAM_WINDOW // size + 3, MAX_AHEAD // 2)
    left = framed(bytes(size)) * count

    def send() -> int:
        nonlocal left
        sent = 0
        while left and (room := min(len(left), peer.local_flow_control_window(1), peer.max_outbound_frame_size)):
            peer.send_data(1, left[:room], end_stream=room == len(left))
            left, sent = left[room:], sent + room
            exchange(server, peer, answers)
        return sent

    assert send() <= size + 5 + STREAM_WINDOW + 5  # the message that is answered, and a window
    for _ in range(count):
        stream, message = server.waiting.pop(0)
        assert len(message) == size
        following = server.connection.reply(stream, [b""])
        if following is not None:
            server.waiting.append((stream, following))
        exchange(server, peer, answers)
        assert send() <= size + STREAM_WINDOW + 10
        held = server.connection.streams.get(1)
        assert held is None or held.ahead + held.have <= max(STREAM_WINDOW, size + 5)
    assert len(answers.messages(1)) == count
    assert answers.status(1) == "0"
    assert server.reserved == 0


def test_packed_messages_wait_packed() -> None:
    server, peer, answers = Server(waits=True), client(), Answers()
    exchange(server, peer, answers)
    peer.send_headers(1, headers("/t/Stream", ("grpc-encoding", "gzip")))
    bomb = framed(gzip.compress(bytes(LIMIT)), packed=1)
    for _ in range(50):
        peer.send_data(1, bomb)
        exchange(server, peer, answers)
    ((stream, message),) = server.waiting
    assert len(message) == LIMIT
    assert sum(len(waiting.content) for waiting in stream.messages) < 50 * len(bomb)


def test_answers_wait_for_the_clients_window_and_for_nothing_else() -> None:
    server, peer, answers = Server(), client(), Answers()
    message = bytes(200_000)
    exchange(server, peer, answers)
    peer.send_headers(1, headers())
    sent = framed(message)
    for start in range(0, len(sent), 16_000):
        peer.send_data(1, sent[start : start + 16_000], end_stream=start + 16_000 >= len(sent))
    exchange(server, peer, answers, acknowledge=False)
    assert len(answers.data[1]) == frames.DEFAULT_WINDOW  # not a byte more, and it has not ended
    assert 1 not in answers.ended
    peer.increment_flow_control_window(50_000, 1)
    exchange(server, peer, answers, acknowledge=False)
    assert len(answers.data[1]) == frames.DEFAULT_WINDOW  # the connection's own is used up
    peer.increment_flow_control_window(100_000)
    exchange(server, peer, answers, acknowledge=False)
    assert len(answers.data[1]) == frames.DEFAULT_WINDOW + 50_000
    peer.update_settings({frames.INITIAL_WINDOW_SIZE: 300_000})
    exchange(server, peer, answers, acknowledge=False)
    assert len(answers.data[1]) == frames.DEFAULT_WINDOW + 100_000
    peer.increment_flow_control_window(1_000_000)
    exchange(server, peer, answers, acknowledge=False)
    assert answers.messages(1) == [message]
    assert 1 in answers.ended


def test_a_client_without_a_table_reads_the_heads_too() -> None:
    server, peer, answers = Server(), client(), Answers()
    numbers = [ask(server, peer, answers, b"a") for _ in range(3)]
    peer.update_settings({frames.HEADER_TABLE_SIZE: 0})
    exchange(server, peer, answers)
    peer.decoder.max_allowed_table_size = 0
    numbers += [ask(server, peer, answers, b"a") for _ in range(3)]
    numbers.append(ask(server, peer, answers, b"a", headers("/t/None")))
    assert [answers.status(number) for number in numbers] == ["0"] * 6 + ["12"]


@pytest.mark.parametrize(
    ("pack", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")], ids=["gzip", "deflate"]
)
def test_packed_messages_are_unpacked_and_bombs_are_not(pack: object, encoding: str) -> None:
    server, peer, answers = Server(limit=1_000_000), client(), Answers()
    fields = headers("/t/Echo", ("grpc-encoding", encoding))
    for content, status in ((b"x" * 1_000_000, "0"), (b"x" * 1_000_001, "8"), (b"", "0")):
        number = peer.get_next_available_stream_id()
        peer.send_headers(number, fields)
        peer.send_data(number, framed(pack(content), packed=1), end_stream=True)
        exchange(server, peer, answers)
        assert answers.status(number) == status
        assert answers.messages(number) == ([content] if status == "0" else [])
    for body, status in ((pack(b"abc")[:-3], "13"), (b"nonsense", "13")):
        number = peer.get_next_available_stream_id()
        peer.send_headers(number, fields)
        peer.send_data(number, framed(body, packed=1), end_stream=True)
        exchange(server, peer, answers)
        assert answers.status(number) == status
    number = peer.get_next_available_stream_id()
    peer.send_headers(number, headers("/t/Echo", ("grpc-encoding", "snappy")))
    peer.send_data(number, framed(b"abc", packed=1), end_stream=True)
    exchange(server, peer, answers)
    assert answers.status(number) == "12"


@pytest.mark.parametrize(
    ("fields", "body", "end", "status"),
    [
        (headers("/t/None"), framed(b"a"), True, "12"),
        (headers("/t/Echo"), b"", True, "13"),
        (headers("/t/Echo"), framed(b"abc")[:-1], True, "13"),
        (headers("/t/Echo"), framed(b"a") * 2, True, "8"),
        (headers("/t/Echo"), framed(b"a", packed=7), True, "13"),
        (headers("/t/Echo"), struct.pack(">BI", 0, LIMIT + 1), False, "8"),
        (headers("/t/Echo", ("x", "y" * 9000)), framed(b"a"), True, "8"),
        (headers("/t/Echo", ("x-1", "a"), ("user-agent", "z")), framed(b"a"), True, "0"),
    ],
    ids=["no verb", "no message", "cut off", "two messages", "flag", "too large", "metadata", "good"],
)
def test_a_call_that_is_wrong_ends_alone(fields: list, body: bytes, end: bool, status: str) -> None:
    server, peer, answers = Server(), client(), Answers()
    exchange(server, peer, answers)
    peer.send_headers(1, fields)
    if body or not end:
        peer.send_data(1, body, end_stream=end)
    else:
        peer.end_stream(1)
    exchange(server, peer, answers)
    assert answers.status(1) == status
    assert 1 in answers.ended
    assert answers.status(ask(server, peer, answers, b"next")) == "0"
    assert server.connection.streams == {}
    assert server.reserved == 0


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (headers(method="GET"), "405"),
        ([(name, "text/html" if name == "content-type" else value) for name, value in HEADERS], "415"),
    ],
)
def test_what_is_no_grpc_is_told_so_in_http(fields: list, status: str) -> None:
    server, peer, answers = Server(), client(), Answers()
    peer.send_headers(1, fields, end_stream=True)
    exchange(server, peer, answers)
    assert answers.fields[1][":status"] == status
    assert answers.status(ask(server, peer, answers, b"next")) == "0"


@pytest.mark.parametrize(
    "fields",
    [
        [(name, value) for name, value in HEADERS if name != ":path"],
        [*HEADERS, (":path", "/t/Echo")],
        [(":method", "POST"), *HEADERS],
        [*HEADERS, ("Upper", "case")],
        [*HEADERS, ("connection", "close")],
        [*HEADERS, (":strange", "1")],
        [*HEADERS, ("grpc-timeout", "soon")],
        [*HEADERS, ("grpc-timeout", "123456789S")],
    ],
)
def test_a_malformed_head_resets_its_stream(fields: list) -> None:
    server = Server()
    server.feed(START)
    assert server.feed(raw(fields)) == frames.reset(1, frames.PROTOCOL_ERROR)
    assert server.connection.streams == {}


@pytest.mark.parametrize(
    ("text", "seconds"), [("5S", 5.0), ("2H", 7200.0), ("1M", 60.0), ("250m", 0.25), ("8u", 8e-6), ("99999999n", 0.1)]
)
def test_a_deadline_is_read_in_every_unit(text: str, seconds: float) -> None:
    assert Heads().read(hpack.Encoder().encode([*HEADERS, ("grpc-timeout", text)])).timeout_s == pytest.approx(seconds)


def test_more_calls_than_there_may_be_are_refused_and_may_be_tried_again() -> None:
    server, answers = Server(calls=2, waits=True), Answers()
    peer = client()
    peer.remote_settings[frames.MAX_CONCURRENT_STREAMS] = 100  # a client that has not heard of the limit yet
    for number in (1, 3, 5):
        peer.send_headers(number, headers())
        peer.send_data(number, framed(b"a"), end_stream=True)
    server.connection.feed(peer.data_to_send())
    while (found := server.connection.next()) is not None:
        server.waiting.append(found)
    answers.take(peer, peer.receive_data(server.take()))
    assert answers.reset == {5: frames.REFUSED_STREAM}
    server.answer()
    server.answer()
    exchange(server, peer, answers)
    assert answers.status(ask(server, peer, answers, b"b")) if not server._waits else True
    assert answers.messages(1) == [b"a"]


def test_a_reset_tells_whoever_answers_and_frees_everything() -> None:
    server, peer, answers = Server(waits=True), client(), Answers()
    peer.send_headers(1, headers())
    peer.send_data(1, framed(b"a"), end_stream=True)
    exchange(server, peer, answers)
    stream, _ = server.waiting[0]
    told: list[bool] = []
    stream.when_gone(lambda: told.append(True))
    assert not told
    peer.reset_stream(1, frames.CANCEL)
    exchange(server, peer, answers)
    assert told == [True]
    server.answer()  # to nobody
    assert server.take() == b""
    late: list[bool] = []
    stream.when_gone(lambda: late.append(True))
    assert late == [True]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["1", "2", "x" * 500, "y" * 1500])), max_size=60))
def test_kept_heads_mean_what_hpack_says(asked: list[tuple[str, str]]) -> None:
    """Through a table that changes and evicts, against a second decoder that keeps nothing."""
    encoder, plain, heads = hpack.Encoder(), hpack.Decoder(), Heads()
    for place, (name, value) in enumerate(asked):
        if place % 17 == 16:
            encoder.header_table_size = (0, 4096, 1000)[place % 3]
        block = encoder.encode([*HEADERS[:2], (":path", f"/{name}{value}"), *HEADERS[3:], (f"x-{name}", value)])
        found = dict(plain.decode(block, raw=True))
        assert heads.read(block).path == found[b":path"]


def test_windows_are_given_again_as_they_are_used() -> None:
    """Ten connections' windows through one, in calls and in a stream."""
    server, peer, answers = Server(), client(), Answers()
    exchange(server, peer, answers)
    assert peer.outbound_flow_control_window == CONNECTION_WINDOW
    message = bytes(STREAM_WINDOW - 5)
    for _ in range(10 * CONNECTION_WINDOW // STREAM_WINDOW):
        assert answers.status(ask(server, peer, answers, message)) == "0"
        answers.data.clear()

"""Bytes that break the protocol, bytes that come in pieces, and bytes that are spoilt."""

from __future__ import annotations

import random
from itertools import pairwise

import hpack
import pytest
from h2_peer import GOOD, HEADERS, MESSAGE, START, Answers, Server, client, frame, framed, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridge_edge.http2 import frames
from hybridge_edge.http2.frames import ConnectionFault
from hybridge_edge.http2.reader import FRAME_BYTES, MAX_BLOCK_BYTES

WRONG = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
    "no settings": (frames.PREFACE + GOOD, frames.PROTOCOL_ERROR),
    "settings of a stream": (START + frame(frames.SETTINGS, 0, 1), frames.PROTOCOL_ERROR),
    "settings cut": (START + frame(frames.SETTINGS, 0, 0, b"12345"), frames.FRAME_SIZE_ERROR),
    "ack with payload": (START + frame(frames.SETTINGS, frames.ACK, 0, b"123456"), frames.PROTOCOL_ERROR),
    "window setting": (START + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), frames.FLOW_CONTROL_ERROR),
    "frame setting": (START + frames.settings({frames.MAX_FRAME_SIZE: 100}), frames.PROTOCOL_ERROR),
    "even stream": (START + raw(HEADERS, 2), frames.PROTOCOL_ERROR),
    "data of no stream": (START + frame(frames.DATA, 0, 5, b"a"), frames.PROTOCOL_ERROR),
    "data of stream 0": (START + frame(frames.DATA, 0, 0, b"a"), frames.PROTOCOL_ERROR),
    "data of an even stream": (START + raw(HEADERS, 5) + frame(frames.DATA, 0, 2, b"a"), frames.PROTOCOL_ERROR),
    "large data": (START + raw(HEADERS) + frames.head(FRAME_BYTES + 1, frames.DATA, 0, 1), frames.FRAME_SIZE_ERROR),
    "large other": (START + frames.head(MAX_BLOCK_BYTES + 1, frames.PING, 0, 0), frames.FRAME_SIZE_ERROR),
    "padding": (START + raw(HEADERS) + frame(frames.DATA, frames.PADDED, 1, b"\x05abc"), frames.PROTOCOL_ERROR),
    "ping": (START + frame(frames.PING, 0, 0, b"1234567"), frames.PROTOCOL_ERROR),
    "push": (START + frame(frames.PUSH_PROMISE, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "window of nothing": (START + frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), frames.FLOW_CONTROL_ERROR),
    "window too large": (START + frames.window_update(0, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
    "window cut": (START + frame(frames.WINDOW_UPDATE, 0, 0, b"abc"), frames.FRAME_SIZE_ERROR),
    "window of no stream": (START + frames.window_update(7, 5), frames.PROTOCOL_ERROR),
    "reset of no stream": (START + frames.reset(7, 8), frames.PROTOCOL_ERROR),
    "reset of 0": (START + frames.reset(0, 8), frames.PROTOCOL_ERROR),
    "continuation of nothing": (START + frame(frames.CONTINUATION, 4, 1, b""), frames.PROTOCOL_ERROR),
    "head interrupted": (START + frame(frames.HEADERS, 0, 1, b"") + frames.ping(bytes(8)), frames.PROTOCOL_ERROR),
    "head without end": (
        START + frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, bytes(MAX_BLOCK_BYTES)) * 2,
        frames.ENHANCE_YOUR_CALM,
    ),
    "empty continuations": (
        START + frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1),
        frames.ENHANCE_YOUR_CALM,
    ),
    "no hpack": (START + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff" * 20), frames.COMPRESSION_ERROR),
    "table entry": (START + frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xbe"), frames.COMPRESSION_ERROR),
    "priority cut": (
        START + frame(frames.HEADERS, frames.END_HEADERS | frames.PRIORITISED, 1, b"abc"),
        frames.FRAME_SIZE_ERROR,
    ),
    "hpack bomb": (
        START
        + frame(frames.HEADERS, 4, 1, hpack.Encoder().encode([("a" * 10, "b" * 3000)]) + b"\xbe" * 1000),
        frames.ENHANCE_YOUR_CALM,
    ),
    "second head": (START + raw(HEADERS) * 2, frames.PROTOCOL_ERROR),
    "data behind the end": (
        START + raw(HEADERS) + frame(frames.DATA, frames.END_STREAM, 1, MESSAGE) + frame(frames.DATA, 0, 1, b"a"),
        frames.STREAM_CLOSED,
    ),
    "stream window": (
        START
        + raw([*HEADERS[:2], (":path", "/t/Stream"), *HEADERS[3:]])
        + frame(frames.DATA, 0, 1, framed(bytes(10_000)) * 30) * 4,
        frames.FLOW_CONTROL_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_whoever_breaks_the_protocol_is_told_how(name: str) -> None:
    data, code = WRONG[name]
    server = Server(waits=True)
    with pytest.raises(ConnectionFault) as caught:
        server.feed(data)
    assert caught.value.code == code, caught.value


def test_the_same_without_the_fault_is_no_fault() -> None:
    """The control."""
    server = Server()
    server.feed(START + GOOD + frames.ping(bytes(8)) + frames.window_update(0, 5) + frames.reset(1, 8))
    server.feed(frame(frames.PRIORITY, 0, 3, bytes(5)) + frame(99, 0, 0, b"unknown") + frames.goaway(0, 0))


def test_padding_priority_and_continuations_change_nothing() -> None:
    server, peer, answers = Server(), client(), Answers()
    server.feed(START)
    block = hpack.Encoder().encode(HEADERS)
    first = frame(frames.HEADERS, frames.PADDED | frames.PRIORITISED, 1, b"\x04" + bytes(5) + block[:7] + bytes(4))
    rest = frame(frames.CONTINUATION, 0, 1, block[7:9]) + frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:])
    body = frame(frames.DATA, frames.PADDED, 1, b"\x03" + MESSAGE[:4] + bytes(3))
    end = frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\x00" + MESSAGE[4:])
    peer.send_headers(1, HEADERS, end_stream=True)  # so that h2 knows the stream
    answers.take(peer, peer.receive_data(frames.settings({}) + server.feed(first + rest + body + end)))
    assert answers.messages(1) == [b"hello"]


CONVERSATION = (
    START
    + GOOD
    + raw([*HEADERS[:2], (":path", "/t/Stream"), *HEADERS[3:]], 3)
    + b"".join(frame(frames.DATA, 0, 3, framed(bytes(n))) for n in (0, 9000, 70))
    + frames.window_update(0, 100_000)
    + frames.window_update(3, 100_000)
    + frame(frames.DATA, frames.PADDED | frames.END_STREAM, 3, b"\x02" + framed(b"last") + bytes(2))
    + frames.ping(b"abcdefgh")
    + raw([*HEADERS, ("grpc-timeout", "5S")], 5, frames.END_HEADERS | frames.END_STREAM)
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=40))
def test_it_does_not_matter_how_bytes_arrive(cuts: list[int]) -> None:
    whole = Server()
    expected = whole.feed(CONVERSATION)
    server, said, places = Server(), b"", sorted({0, *cuts, len(CONVERSATION)})
    for start, end in pairwise(places):
        said += server.feed(CONVERSATION[start:end])
    assert said == expected
    assert b"abcdefgh" in said


def test_it_does_not_matter_if_each_byte_comes_alone() -> None:
    server = Server()
    assert b"".join(server.feed(CONVERSATION[n : n + 1]) for n in range(len(CONVERSATION))) == Server().feed(
        CONVERSATION
    )


@settings(max_examples=1500, deadline=None)
@given(st.randoms(use_true_random=False))
def test_spoilt_bytes_are_read_or_are_a_fault_and_memory_stays_bounded(rng: random.Random) -> None:
    data = bytearray(CONVERSATION)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(frames.PREFACE), len(data))
        if (kind := rng.randrange(4)) == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 30)]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 30))
        else:
            start = rng.randrange(len(data))
            data[place:place] = data[start : start + rng.randrange(1, 200)]
    server = Server()
    try:
        server.feed(bytes(data))
    except ConnectionFault as fault:
        assert fault.code in range(14)  # noqa: PT017
    server.connection.close()
    assert server.connection.streams == {}
    assert server.reserved == 0

"""Servers of the direct socket that are none, or mean harm: both clients go another way, or say what was wrong."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy
import pytest
from direct_peers import ECHO, Impostor, Script, eventually, frame, hear, leftovers, memory, wide

from hybridge_edge import runtime
from hybridge_edge.client.exchange import SHARED_BYTES
from hybridge_edge.contract.errors import (
    DeadlineExceeded,
    InvalidDocument,
    InvalidInput,
    Overloaded,
    Refused,
    Unavailable,
)
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.direct import frames
from hybridge_edge.direct.frames import ERROR, FULL, HEAD, INFER, MAP, NUMBER, Place

Right = Callable[..., None]
EMPTY = frame(INFER, *frames.answered([], [messages.ModelInferResponse(model_name="watch").SerializeToString()]))
"""A whole answer without outputs."""


def says(spoken: bytes) -> Script:
    """Hears a request and says this, then goes."""

    def script(accepted: socket.socket) -> None:
        hear(accepted)
        accepted.sendall(spoken)

    return script


def stops_reading(accepted: socket.socket) -> None:
    """Says something in the middle of a request that is larger than what the system keeps."""
    accepted.recv(4096)
    accepted.sendall(EMPTY)
    accepted.shutdown(socket.SHUT_RD)


STRANGERS: dict[str, Script] = {
    "goes at once": lambda accepted: None,
    "goes after the first word": lambda accepted: accepted.recv(4),  # type: ignore[dict-item, return-value]
    "goes without a word": says(b""),
    "goes in a head": says(EMPTY[:3]),
    "goes in a body": says(EMPTY[:-1]),
    "is another program": says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "says too much": says(HEAD.pack(2**32 - 1, INFER)),
    "says two things": says(EMPTY + EMPTY),
    "says what nobody knows": says(frame(99)),
    "has no room": says(frame(FULL)),
}


@pytest.fixture
def instead(here: Any) -> Iterator[Callable[[Script], Impostor]]:
    """Puts somebody where the direct socket should be, beside a server that answers over grpc."""
    begun: list[Impostor] = []

    def put(script: Script) -> Impostor:
        begun.append(Impostor(here.folder / runtime.DIRECT_SOCKET, script))
        return begun[-1]

    yield put
    for one in begun:
        one.__exit__()


@pytest.mark.parametrize("kind", STRANGERS)
def test_who_says_not_one_word_of_ours_is_asked_once_and_requests_go_over_grpc(
    kind: str, here: Any, client_of: Any, instead: Any, kit: ModuleType, right: Right
) -> None:
    stranger = instead(STRANGERS[kind])
    with client_of(here.target) as client:
        for seed in range(3):
            right(client.infer("watch", {"window": kit.window(1, seed)}), kit.window(1, seed))
        assert client._connected.direct.open == 0
    assert stranger.accepted == 1


def test_a_large_tensor_goes_over_grpc_too_where_its_reader_goes(here: Any, client_of: Any, instead: Any) -> None:
    instead(stops_reading)
    with client_of(here.target, shared_bytes=1 << 40) as client:
        for seed in range(2):
            values = wide(seed, 8)
            assert numpy.array_equal(client.infer(ECHO, {"x": values}).outputs["y"], values)


def placed(*places: Place, response: bytes = b"") -> bytes:
    return frame(INFER, *frames.answered(places, [response]))


TWO_OUTPUTS = messages.ModelInferResponse(
    outputs=[{"name": "y", "datatype": "FP32", "shape": [1, 2]}],  # type: ignore[list-item]
    raw_output_contents=[b"\0" * 8, b"\0" * 8],
)


@pytest.mark.parametrize(
    ("spoken", "error", "words"),
    [
        (placed(response=b"\xff" * 8), InvalidDocument, "no ModelInferResponse"),
        (placed(Place(0, 1, 0, 8)), InvalidDocument, "outside of the room"),
        (placed(Place(0, 0, 0, 8)), InvalidDocument, "outside of the room"),
        (frame(INFER, frames.ANSWERED.pack(9)), InvalidDocument, "shorter than it says"),
        (frame(INFER, b""), InvalidDocument, "shorter than it says"),
        (frame(INFER, frames.ANSWERED.pack(60_000)), InvalidDocument, "Place at most"),
        (placed(response=TWO_OUTPUTS.SerializeToString()), InvalidInput, "other numbers"),
        (frame(ERROR, b"RESOURCE_EXHAUSTED\0Too many wait."), Overloaded, "Too many wait"),
        (frame(ERROR, b"\xff\0\xff"), Refused, "\ufffd"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_and_is_asked_once(
    spoken: bytes, error: type[Exception], words: str, here: Any, client_of: Any, instead: Any, kit: ModuleType
) -> None:
    liar = instead(says(spoken))
    with client_of(here.target) as client, pytest.raises(error, match=words):
        client.infer("watch", {"window": kit.window()})
    assert liar.accepted == 1
    assert not here.service.asked


@pytest.mark.parametrize("offset", [0, 1 << 20, 1 << 62])
def test_an_output_outside_of_its_room_is_not_read(offset: int, here: Any, client_of: Any, instead: Any) -> None:
    """The input lies at 0, so what is read there would be the program's own words come back."""
    content = numpy.zeros((1, 2 * SHARED_BYTES // 4), numpy.float32)
    response = messages.ModelInferResponse(
        outputs=[{"name": "y", "datatype": "FP32", "shape": content.shape}]  # type: ignore[list-item]
    )

    def script(accepted: socket.socket) -> None:
        assert hear(accepted)[0] == MAP
        accepted.sendall(frame(MAP, NUMBER.pack(7)))
        assert hear(accepted, first=False)[0] == INFER
        inline = messages.ModelInferResponse.FromString(response.SerializeToString())
        inline.raw_output_contents.append(content.tobytes())
        accepted.sendall(placed(response=inline.SerializeToString()))
        kind, body = hear(accepted, first=False)
        assert kind == INFER
        _, room, _ = frames.read_asked(body)
        assert room.segment == 7
        assert room.size >= content.nbytes
        accepted.sendall(placed(Place(0, 7, offset, content.nbytes), response=response.SerializeToString()))

    instead(script)
    with client_of(here.target) as client:
        assert numpy.array_equal(client.infer(ECHO, {"x": wide()}).outputs["y"], content)
        with pytest.raises(InvalidDocument, match="outside of the room"):
            client.infer(ECHO, {"x": wide()})


def test_a_map_without_a_number_is_an_error(here: Any, client_of: Any, instead: Any) -> None:
    instead(says(frame(MAP, b"123")))
    with client_of(here.target) as client, pytest.raises(InvalidDocument, match="names no segment"):
        client.infer(ECHO, {"x": wide()})
    assert eventually(lambda: leftovers()[1] == 0)


def test_who_keeps_silent_is_given_up_and_hears_of_it(here: Any, client_of: Any, instead: Any, kit: ModuleType) -> None:
    ended: list[bytes] = []

    def keep_silent(accepted: socket.socket) -> None:
        hear(accepted)
        ended.append(accepted.recv(1))

    instead(keep_silent)
    with client_of(here.target) as client:
        with pytest.raises(DeadlineExceeded):
            client.infer("watch", {"window": kit.window()}, timeout_s=0.1)
        assert eventually(lambda: ended == [b""])
        assert client._connected.direct.open == 0


def test_who_goes_after_an_answer_is_asked_again_on_another_connection(
    here: Any, client_of: Any, instead: Any, kit: ModuleType
) -> None:
    server = instead(says(EMPTY))
    with client_of(here.target) as client:
        for _ in range(3):
            assert client.infer("watch", {"window": kit.window()}).model == "watch"
            time.sleep(0.02)  # so that the end is there before the next request
    assert server.accepted == 3
    with client_of(here.target, retry=False) as client:
        client.infer("watch", {"window": kit.window()})
        with pytest.raises(Unavailable, match="went away"):
            client.infer("watch", {"window": kit.window()})


def test_descriptors_that_come_with_answers_are_not_kept(
    here: Any, client_of: Any, instead: Any, kit: ModuleType
) -> None:
    sent = memory(4096)

    def give(accepted: socket.socket) -> None:
        accepted.recv(4)
        while True:
            hear(accepted, first=False)
            socket.send_fds(accepted, [EMPTY], [sent, sent, sent])

    instead(give)
    with client_of(here.target) as client:
        client.infer("watch", {"window": kit.window()})
        before = leftovers()
        for _ in range(20):
            client.infer("watch", {"window": kit.window()})
        assert client._connected.direct.open == 1
        assert leftovers() <= before

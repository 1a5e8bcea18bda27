"""The direct socket's words without a socket: frames in any pieces, memory made and refused, a pool's bounds."""

from __future__ import annotations

import mmap
import os
import random
from typing import Any

import numpy
import pytest
from direct_peers import frame, leftovers

from hybridge_edge.client import pool as pools
from hybridge_edge.client.asked import Asked
from hybridge_edge.client.exchange import Exchange, NoRoom, Say
from hybridge_edge.client.pool import Pool
from hybridge_edge.contract.errors import InvalidInput, Overloaded
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.direct import frames
from hybridge_edge.direct.frames import ERROR, FULL, INFER, MAP, NUMBER, UNMAP, Incoming, unsent

ANSWER = b"".join(frames.answered([], [messages.ModelInferResponse(model_name="m").SerializeToString()]))


def asked(*shapes: int) -> Asked:
    return Asked(
        "m", {f"x{at}": numpy.full((1, size), at, numpy.uint8) for at, size in enumerate(shapes)}, "", "", (), True
    )


def said(words: Any, heard: Any = None) -> Say:
    say = words.send(heard)
    assert isinstance(say, Say)
    return say


def ends(words: Any, heard: Any) -> Any:
    with pytest.raises(StopIteration) as ended:
        words.send(heard)
    return ended.value.value


@pytest.mark.parametrize("size", [0, 1, 100, 65_530, 65_531, 65_532, 300_000])
def test_a_frame_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    chance = random.Random(size)
    body = chance.randbytes(size)
    incoming = Incoming(1 << 20)
    for most in (1, 4, 5, 6, 1000, 1 << 20):
        if most < 1000 and size > 70_000:
            continue
        spoken, found = frame(3, body), None
        while spoken:
            assert found is None
            room = incoming.room()
            count = min(len(room), len(spoken), most)
            assert count
            room[:count], spoken = spoken[:count], spoken[count:]
            found = incoming.take(count)
        assert found == (3, body)
    with pytest.raises(frames.Ended):
        incoming.take(0)
    incoming.room()[:2] = b"\1\0"
    incoming.take(2)
    with pytest.raises(ConnectionError):
        incoming.take(0)


def test_what_is_left_of_a_frame_is_what_was_not_sent() -> None:
    parts = frames.outgoing(1, [b"", b"abc", memoryview(b"defg"), b""])
    whole = b"".join(parts)
    for sent in range(len(whole) + 1):
        assert b"".join(unsent(parts, sent)) == whole[sent:]
    assert unsent(parts, len(whole)) == []
    assert len(frames.outgoing(1, [b"x"] * 5000)) == 1


def test_memory_is_made_once_made_larger_and_closed() -> None:
    before = leftovers()
    exchange = Exchange(1000)
    words = exchange.infer(asked(10, 2000, 1000), 1.0)
    say = said(words)
    assert say.kind == MAP
    assert say.descriptor is not None
    seen = mmap.mmap(say.descriptor, 0, prot=mmap.PROT_READ)
    assert exchange.fresh
    say = said(words, (MAP, NUMBER.pack(5)))
    places, room, _ = frames.read_asked(b"".join(say.parts))
    assert [(one.tensor, one.segment, one.size) for one in places] == [(1, 5, 2000), (2, 5, 1000)]
    assert [seen[one.offset : one.offset + one.size] for one in places] == [b"\1" * 2000, b"\2" * 1000]
    assert room.segment == 0
    assert ends(words, (INFER, ANSWER)).model == "m"
    assert not exchange.fresh
    assert said(exchange.infer(asked(2000), 1.0)).kind == INFER
    larger = exchange.infer(asked(3 << 20), 1.0)
    assert said(larger).parts == [NUMBER.pack(5)]
    say = said(larger, (UNMAP, b""))
    assert (say.kind, os.fstat(say.descriptor or 0).st_size) == (MAP, 4 << 20)
    larger.close()  # broken off: the descriptor goes with it
    exchange.close()
    seen.close()
    assert leftovers() <= before


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"])
def test_where_memory_is_refused_it_is_not_asked_for_again(status: str) -> None:
    exchange = Exchange(1000)
    words = exchange.infer(asked(2000), 1.0)
    assert said(words).kind == MAP
    say = said(words, (ERROR, status.encode() + b"\0No."))
    assert frames.read_asked(b"".join(say.parts))[0] == []
    ends(words, (INFER, ANSWER))
    assert said(exchange.infer(asked(2000), 1.0)).kind == INFER
    assert leftovers()[1] == 0


def test_a_refusal_is_what_the_server_says_and_full_is_no_answer() -> None:
    for heard, error in (
        ((ERROR, b"RESOURCE_EXHAUSTED\0Later."), Overloaded),
        ((ERROR, b"INVALID_ARGUMENT\0No."), InvalidInput),
        ((FULL, b""), NoRoom),
    ):
        exchange = Exchange(1000)
        words = exchange.infer(asked(5), 1.0)
        said(words)
        with pytest.raises(error):
            words.send(heard)
        assert exchange.fresh == (error is NoRoom)


class Thing:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_pool_lends_so_many_and_pauses_where_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Pool[Thing] = Pool(2, after=1)
    assert (pool.take(), pool.reserve()) == (None, False)  # the first goes another way
    assert (pool.take(), pool.reserve()) == (None, True)
    one = pool.add(Thing())
    assert pool.reserve()
    assert (pool.reserve(), pool.open) == (False, 2)
    pool.release(refused=False)
    assert (pool.lent(), pool.open) == ([one], 1)
    pool.give_back(one)
    assert (pool.lent(), pool.take()) == ([], one)
    pool.drop(one, refused=True)
    assert one.closed
    assert (pool.open, pool.reserve()) == (0, False)
    monkeypatch.setattr(pools, "REFUSED_S", -1.0)
    pool.pause()
    assert pool.reserve()
    late, idle = pool.add(Thing()), Thing()
    assert pool.reserve()
    pool.give_back(pool.add(idle))
    pool.close()
    assert (idle.closed, late.closed, pool.reserve()) == (True, False, False)
    pool.give_back(late)
    assert late.closed

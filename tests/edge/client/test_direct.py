"""The direct socket as our clients use it, both alike: the same answers as over grpc, by memory or not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy
import pytest
from direct_peers import ECHO, Peer, eventually, from_threads, mapped, wide

from hybridge_edge.client.exchange import SHARED_BYTES
from hybridge_edge.contract.errors import DeadlineExceeded, InvalidInput, ModelNotFound, Overloaded
from hybridge_edge.direct import segments, server
from hybridge_edge.direct.frames import INFER

Right = Callable[..., None]


def test_it_answers_and_refuses_as_the_other_ways_do(
    direct: Any, client_of: Any, kit: ModuleType, right: Right
) -> None:
    with client_of(direct.target, streams=0) as client:
        for seed in range(3):
            values = kit.window(2, seed)
            answer = client.infer("watch", {"window": values}, sample_id=f"one-{seed}", outputs=("scores",))
            right(answer, values)
            assert (answer.version, answer.sample_id) == ("1.1.0", f"one-{seed}")
            assert answer.provider == "CPUExecutionProvider"
        right(client.infer("watch", {"window": values}, version="1.0.0", capture=False), values, 1.0)
        assert not direct.service.asked[-1].capture
        for error, model, arguments in (
            (ModelNotFound, "other", {}),
            (InvalidInput, "watch", {"outputs": ("nothing",)}),
            (DeadlineExceeded, "held", {"timeout_s": 0.2}),
        ):
            with pytest.raises(error):
                client.infer(model, {"window": kit.window()}, **arguments)
        assert client._connected.streams.open == 0
        direct.service.refuse = Overloaded("Too many wait.", "Later.")
        direct.service.asked.clear()
        with pytest.raises(Overloaded, match="Too many wait"):
            client.infer("watch", {"window": kit.window()})
        assert len(direct.service.asked) == 1
        direct.service.refuse = None
        direct.held.go.set()
        assert eventually(lambda: len(direct.direct._open) == 1)  # the one whose answer came too late is gone
        right(client.infer("watch", {"window": kit.window()}), kit.window())
        assert mapped(direct) == 0


@pytest.mark.parametrize("shared_bytes", [1, SHARED_BYTES, 1 << 40])
def test_tensors_come_and_go_by_memory_or_not_and_are_the_same(
    shared_bytes: int, direct: Any, client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    read, write = segments.Segments.read, segments.Segments.write
    monkeypatch.setattr(segments.Segments, "read", lambda self, place: moved.append("in") or read(self, place))
    monkeypatch.setattr(segments.Segments, "write", lambda self, *to: moved.append("out") or write(self, *to))
    with client_of(direct.target, streams=0, shared_bytes=shared_bytes) as client:
        kept = []
        for seed, rows in enumerate((1, 1, 2, 4, 1)):
            values = wide(seed, rows)
            kept.append((values, client.infer(ECHO, {"x": values}).outputs["y"]))
        for values, answer in kept:  # no later answer is written over an earlier one
            assert numpy.array_equal(values, answer)
        assert (mapped(direct) > 0) == (shared_bytes < 1 << 40)
        # Nobody knows how large the first answer will be; one four times as large has no room either.
        assert (moved.count("in"), moved.count("out") >= 3) == ((5, True) if shared_bytes < 1 << 40 else (0, False))
    assert eventually(lambda: mapped(direct) == 0)


def test_what_a_client_writes_later_changes_nothing_that_was_read(direct: Any, client_of: Any) -> None:
    """The captured sample of a request is what was asked, whatever is done to the memory since."""
    seen: list[Any] = []
    infer = direct.service.infer

    def remember(request: Any, call: Any) -> Any:
        seen.append(request.inputs["x"])
        return infer(request, call)

    direct.service.infer = remember
    first, second = wide(1), wide(2)
    with client_of(direct.target, streams=0) as client:
        client.infer(ECHO, {"x": first})
        client.infer(ECHO, {"x": second})
    assert numpy.array_equal(seen[0], first)
    assert numpy.array_equal(seen[1], second)


def test_threads_beyond_the_connections_go_over_grpc(
    direct: Any, client_of: Any, kit: ModuleType, right: Right
) -> None:
    def ask(number: int) -> None:
        for turn in range(20):
            values = kit.window(1, 100 * number + turn)
            right(client.infer("watch", {"window": values}), values)

    with client_of(direct.target, direct=2) as client:
        from_threads(ask)
        assert 1 <= len(direct.direct._open) <= 2
    assert eventually(lambda: not direct.direct._open)


def test_where_there_is_no_room_or_no_such_socket_requests_go_over_grpc(
    direct: Any, client_of: Any, kit: ModuleType, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    with client_of(direct.target) as first, client_of(direct.target) as second:
        for client in (first, second):
            for _ in range(3):
                right(client.infer("watch", {"window": kit.window()}), kit.window())
        assert len(direct.direct._open) == 1
    direct.stop()
    direct.start()
    with client_of(direct.target) as client:
        right(client.infer("watch", {"window": kit.window()}), kit.window())


def test_where_the_server_maps_no_more_tensors_go_inline(direct: Any, client_of: Any) -> None:
    direct.direct.mapped = segments.Mapped(most=10)
    with client_of(direct.target, streams=0) as client:
        assert numpy.array_equal(client.infer(ECHO, {"x": wide()}).outputs["y"], wide())
        assert mapped(direct) == 0


def test_a_server_that_starts_again_is_found(direct: Any, client_of: Any, kit: ModuleType, right: Right) -> None:
    with client_of() as client:
        right(client.infer("watch", {"window": kit.window()}), kit.window())
        client.infer(ECHO, {"x": wide()})
        direct.stop()
        back = threading.Timer(0.3, direct.start, kwargs={"direct": True})
        back.start()
        assert numpy.array_equal(client.infer(ECHO, {"x": wide(3)}, timeout_s=20).outputs["y"], wide(3))
        back.join()


def test_a_client_that_goes_while_it_waits_cancels_its_call(direct: Any, kit: ModuleType) -> None:
    calls: list[Any] = []
    infer = direct.service.infer

    def remember(request: Any, call: Any) -> Any:
        calls.append(call)
        return infer(request, call)

    direct.service.infer = remember
    peer = Peer(direct)
    peer.send(INFER, peer.request("held", kit.window()))
    assert direct.held.entered.acquire(timeout=10)
    peer.close()
    assert eventually(lambda: calls[0].cancelled)
    direct.held.go.set()
    assert eventually(lambda: not direct.direct._open)

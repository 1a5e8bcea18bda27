"""The client over a real server: the same answers by call and by stream, deadlines, attempts, waiting, labels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
from direct_peers import from_threads

from hybridge_edge.client import Client, streams
from hybridge_edge.client.streams import STREAM_AFTER
from hybridge_edge.contract.errors import (
    DeadlineExceeded,
    HybridgeError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    Refused,
    Unavailable,
)
from hybridge_edge.serving import server as serving

Right = Callable[..., None]


def warm(client: Client, kit: ModuleType) -> None:
    """Until it has a stream."""
    for _ in range(STREAM_AFTER + 1):
        client.infer("watch", {"window": kit.window()})


def open_streams(client: Client) -> int:
    connected = client._connected
    return connected.streams.open if connected is not None else 0


def test_it_finds_the_server_and_answers_alike_by_call_and_by_stream(here: Any, kit: ModuleType, right: Right) -> None:
    with Client.connect() as client:
        for seed in range(6):
            values = kit.window(2, seed)
            answer = client.infer("watch", {"window": values}, sample_id=f"one-{seed}")
            right(answer, values)
            assert (answer.version, answer.sample_id) == ("1.1.0", f"one-{seed}")
            assert answer.provider == "CPUExecutionProvider"
            assert answer.digest.startswith("sha256:")
            assert answer.total_us >= answer.infer_us >= 0
            assert open_streams(client) == (seed >= STREAM_AFTER)
        older = client.infer("watch", {"window": values}, version="1.0.0", outputs=("scores",), capture=False)
        right(older, values, 1.0)
        assert not here.service.asked[-1].capture
        assert here.service.asked[-1].outputs == ("scores",)
        assert client.model_ready("watch")
        assert not client.model_ready("other")


@pytest.mark.parametrize("by_stream", [False, True])
def test_what_the_server_refuses_is_the_error_it_names_and_is_asked_once(
    by_stream: bool, here: Any, kit: ModuleType, right: Right
) -> None:
    with Client(here.target, streams=int(by_stream)) as client:
        warm(client, kit)
        assert open_streams(client) == int(by_stream)
        for error, ask in (
            (ModelNotFound, lambda: client.infer("other", {"window": kit.window()})),
            (ModelNotFound, lambda: client.infer("watch", {"window": kit.window()}, version="9.0.0")),
            (InvalidInput, lambda: client.infer("watch", {"window": kit.window()[:, :2]})),
            (InvalidInput, lambda: client.infer("watch", {"window": kit.window()}, outputs=("nothing",))),
            (InvalidInput, lambda: client.infer("watch", {"window": kit.window().astype(numpy.complex64)})),
        ):
            with pytest.raises(error):
                ask()
        here.service.asked.clear()
        here.service.refuse = Overloaded("Too many wait.", "Later.")
        with pytest.raises(Overloaded, match="Too many wait"):
            client.infer("watch", {"window": kit.window()})
        assert len(here.service.asked) == 1
        here.service.refuse = None
        right(client.infer("watch", {"window": kit.window()}), kit.window())
        assert open_streams(client) == int(by_stream)


@pytest.mark.parametrize("by_stream", [False, True])
def test_a_deadline_is_kept_and_no_later_answer_is_taken_for_another(
    by_stream: bool, here: Any, kit: ModuleType, right: Right
) -> None:
    with Client(here.target, streams=int(by_stream)) as client:
        warm(client, kit)
        with pytest.raises(DeadlineExceeded):
            client.infer("held", {"window": kit.window()}, timeout_s=0.2)
        here.held.go.set()
        for seed in range(4):
            right(client.infer("watch", {"window": kit.window(1, seed)}), kit.window(1, seed))


def test_a_server_that_keeps_silent_in_a_stream_is_given_up(
    short: Any, monkeypatch: pytest.MonkeyPatch, kit: ModuleType
) -> None:
    monkeypatch.setattr(streams, "LATE_S", 0.1)
    monkeypatch.setattr(streams, "STREAM_AFTER", 0)
    silent = grpc.server(ThreadPoolExecutor(2))
    ended = threading.Event()

    def say_nothing(requests: Any, context: Any) -> Any:
        context.add_callback(ended.set)
        next(requests)
        ended.wait(30)
        return iter(())

    method = grpc.stream_stream_rpc_method_handler(say_nothing)
    silent.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelStreamInfer": method}),)
    )
    silent.add_insecure_port(f"unix:{short}/silent.sock")
    silent.start()
    with Client(f"unix:{short}/silent.sock") as client:
        with pytest.raises(DeadlineExceeded):
            client.infer("watch", {"window": kit.window()}, timeout_s=0.1)
        assert ended.wait(10)  # and the server hears of it
        assert open_streams(client) == 0
    silent.stop(0).wait()


def test_threads_share_a_client_and_each_gets_its_own_answer(here: Any, kit: ModuleType, right: Right) -> None:
    def ask(number: int) -> None:
        for turn in range(30):
            values = kit.window(1, 100 * number + turn)
            right(client.infer("watch", {"window": values}), values)

    with Client(here.target, streams=2) as client:
        from_threads(ask)
        assert 1 <= open_streams(client) <= 2


def test_where_the_server_has_no_room_for_a_stream_requests_are_calls(
    here: Any, kit: ModuleType, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [Client(here.target) for _ in range(serving.STREAMS)]
    for other in others:
        warm(other, kit)
    assert sum(map(open_streams, others)) == serving.STREAMS
    with Client(here.target) as client:
        for _ in range(6):
            right(client.infer("watch", {"window": kit.window()}), kit.window())
        assert open_streams(client) == 0
    for other in others:
        other.close()


@pytest.mark.parametrize("streams_open", [0, 1])
def test_a_server_that_starts_again_elsewhere_is_found_within_the_deadline(
    streams_open: int, here: Any, kit: ModuleType, right: Right
) -> None:
    with Client(streams=streams_open) as client:
        warm(client, kit)
        here.stop()
        back = threading.Timer(0.5, here.start, ("other.sock",))
        back.start()
        right(client.infer("watch", {"window": kit.window()}, sample_id="same", timeout_s=20), kit.window())
        back.join()
        assert here.service.asked[-1].sample_id == "same"
        right(client.infer("watch", {"window": kit.window()}), kit.window())


def test_without_retry_a_server_that_is_away_is_said_at_once(here: Any, kit: ModuleType) -> None:
    here.stop()
    with Client(here.target, retry=False) as client, pytest.raises(Unavailable, match="does not answer"):
        client.infer("watch", {"window": kit.window()}, timeout_s=3600)
    (here.folder / "endpoint.json").unlink()
    with Client(retry=False) as client, pytest.raises(Unavailable, match="No server has started"):
        client.infer("watch", {"window": kit.window()}, timeout_s=3600)


def test_attempts_end_with_the_deadline_and_say_how_many_there_were(here: Any, kit: ModuleType) -> None:
    here.stop()
    began = time.monotonic()
    with Client(here.target) as client, pytest.raises(Unavailable, match=r"\(\d+ attempts within 0\.5 s\)"):
        client.infer("watch", {"window": kit.window()}, timeout_s=0.5)
    assert time.monotonic() - began < 30  # half a second, and whatever else the machine does


def test_waiting_tells_what_is_waited_for(here: Any, kit: ModuleType) -> None:
    here.stop()
    (here.folder / "endpoint.json").unlink()
    told: list[str] = []
    heard = threading.Event()

    def progress(sentence: str) -> None:
        told.append(sentence)
        heard.set()

    with Client.connect() as client:
        waiting = threading.Thread(target=client.wait_ready, args=("watch",), kwargs={"progress": progress})
        waiting.start()
        assert heard.wait(10)
        here.start()
        waiting.join()
        assert told[0].startswith("No server has started")
        client.wait_ready()
        with pytest.raises(Unavailable, match=r"Model other is not ready after 0\.2 s: no other is on this device yet"):
            client.wait_ready("other", timeout_s=0.2)


def test_labels_are_taken_on_the_device_only(kit: ModuleType) -> None:
    with Client("127.0.0.1:9") as client, pytest.raises(Refused, match="over TCP, where labels are not taken"):
        client.feedback("s", "left", model="watch")


def test_a_client_that_was_closed_connects_again(here: Any, kit: ModuleType, right: Right) -> None:
    client = Client(here.target)
    warm(client, kit)
    client.close()
    right(client.infer("watch", {"window": kit.window()}), kit.window())
    client.close()


def test_every_error_has_a_remedy_or_the_servers_words(here: Any, kit: ModuleType) -> None:
    with Client(here.target) as client:
        for ask in (
            lambda: client.infer("other", {"window": kit.window()}),
            lambda: client.infer("held", {"window": kit.window()}, timeout_s=0.05),
        ):
            with pytest.raises(HybridgeError) as caught:
                ask()
            assert len(str(caught.value).split(". ")) >= 2, caught.value
        here.held.go.set()

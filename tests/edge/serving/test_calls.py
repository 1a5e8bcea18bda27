"""A call's claim as the transports make it: until when, from whom, cancelled with its caller; who waits for whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue
from threading import Thread
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
from held import Held
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hybridge_edge import trust as trusting
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import Overloaded
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import EngineResult, load
from hybridge_edge.serving import server as serving
from hybridge_edge.serving.call import DEFAULT_DEADLINE_S, LOCAL, NETWORK, Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer, message_limit
from hybridge_edge.serving.service import Answer, Inference, Service

SOON_S = 10.0


class Watched(Service):
    """The service, remembering the calls it was given."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(gate, lambda model, digest: None)
        self.calls: list[Call] = []
        self.left: list[float] = []

    def infer(self, request: Inference, call: Call) -> Answer:
        self.calls.append(call)
        self.left.append(call.left())
        return super().infer(request, call)


@dataclass
class Running:
    service: Watched
    server: InferenceServer
    held: Held
    channels: list[grpc.Channel] = field(default_factory=list)

    def channel(self, transport: str) -> grpc.Channel:
        target = f"unix:{self.server.socket if transport == 'local' else self.server.network}"
        self.channels.append(grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]))
        return self.channels[-1]

    def stub(self, transport: str = "local") -> service_pb2_grpc.GRPCInferenceServiceStub:
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel(transport))


@pytest.fixture
def running(short: Path, packages: Callable, trust: TrustDocument) -> Iterator[Running]:
    """A server of two models: ``free`` answers at once, ``held`` when ``running.held.go`` is set."""
    service = Watched(Gate(256))
    engines = {}
    for name in ("free", "held"):
        built = packages(name=name)
        engine: Any = load(trusting.open_package(built.folder, trust), 1)
        engines[name] = Held(engine) if name == "held" else engine
        service.residents.switch(Resident(built.manifest, built.digest, engines[name]))
    server = InferenceServer(service, short / "i.sock", short / "n.sock", "0.1.0", lambda: True)
    server.start()
    one = Running(service, server, engines["held"])
    yield one
    one.held.go.set()
    server.stop(5)
    for channel in one.channels:
        channel.close()


def request(kit: ModuleType, model: str = "free", timeout_us: int | None = None) -> service_pb2.ModelInferRequest:
    window = kit.window()
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[window.tobytes()])
    made.inputs.add(name="window", datatype="FP32", shape=window.shape)
    if timeout_us is not None:
        made.parameters["timeout"].int64_param = timeout_us
    return made


def eventually(ask: Callable[[], bool]) -> bool:
    until = time.monotonic() + SOON_S
    while time.monotonic() < until:
        if ask():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("transport", "peer"), [("local", LOCAL), ("network", NETWORK)])
def test_a_call_says_where_it_comes_from(running: Running, kit: ModuleType, transport: str, peer: str) -> None:
    running.stub(transport).ModelInfer(request(kit), timeout=SOON_S)
    list(running.stub(transport).ModelStreamInfer(iter([request(kit)]), timeout=SOON_S))
    assert [call.peer for call in running.service.calls] == [peer, peer]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("deadline_s", "timeout_us", "limit_s"),
    [
        (None, None, DEFAULT_DEADLINE_S),
        (30.0, None, 30.0),
        (30.0, 2_000_000, 2.0),
        (30.0, 50_000_000, 30.0),
        (None, 50_000_000, 50.0),
        (30.0, 0, 30.0),
    ],
)
def test_the_shorter_one_of_deadline_and_timeout_counts(
    running: Running, kit: ModuleType, stream: bool, deadline_s: float | None, timeout_us: int | None, limit_s: float
) -> None:
    message = request(kit, timeout_us=timeout_us)
    if stream:
        list(running.stub().ModelStreamInfer(iter([message]), timeout=deadline_s))
    else:
        running.stub().ModelInfer(message, timeout=deadline_s)
    (left,) = running.service.left
    assert limit_s - SOON_S < left <= limit_s + 0.1


def test_each_message_of_a_stream_has_its_own_timeout(running: Running, kit: ModuleType) -> None:
    messages = [request(kit, timeout_us=limit) for limit in (20_000_000, None, 40_000_000)]
    list(running.stub().ModelStreamInfer(iter(messages), timeout=50.0))
    assert [round(left, -1) for left in running.service.left] == [20.0, 50.0, 40.0]


@pytest.mark.parametrize("transport", ["local", "network"])
def test_a_caller_that_goes_cancels_its_call(running: Running, kit: ModuleType, transport: str) -> None:
    call = running.stub(transport).ModelInfer.future(request(kit, "held"), timeout=60)
    assert running.held.entered.acquire(timeout=SOON_S)
    assert not running.service.calls[0].cancelled
    call.cancel()
    assert eventually(lambda: running.service.calls[0].cancelled)


def test_the_end_of_a_stream_cancels_what_it_waits_for(running: Running, kit: ModuleType) -> None:
    stream = running.stub().ModelStreamInfer(iter([request(kit), request(kit, "held")]), timeout=60)
    assert next(stream).infer_response.model_name == "free"
    assert running.held.entered.acquire(timeout=SOON_S)
    assert not running.service.calls[1].cancelled
    stream.cancel()
    assert eventually(lambda: running.service.calls[1].cancelled)


def test_a_flood_from_the_network_keeps_no_local_caller_and_no_health_check_waiting(
    running: Running, kit: ModuleType
) -> None:
    floods = [running.stub("network") for _ in range(4)]
    calls = [floods[number % 4].ModelInfer.future(request(kit, "held"), timeout=60) for number in range(200)]
    for _ in range(serving.NETWORK_THREADS):
        assert running.held.entered.acquire(timeout=SOON_S)
    time.sleep(0.5)  # whatever else can get in is in
    with pytest.raises(grpc.RpcError) as caught:  # the flood is one: there is no more room on its own transport
        running.stub("network").ModelInfer(request(kit), timeout=1)
    assert caught.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for transport in ("network", "local"):
        stub = running.stub(transport)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=SOON_S).live
        assert stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=SOON_S).ready
        assert stub.ModelReady(service_pb2.ModelReadyRequest(name="free"), timeout=SOON_S).ready
    assert running.stub("local").ModelInfer(request(kit), timeout=SOON_S).model_name == "free"
    running.held.go.set()
    codes = {call.code() for call in calls}
    assert grpc.StatusCode.OK in codes
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_a_stop_lets_a_stream_have_its_answer_and_waits_for_the_end_of_none(running: Running, kit: ModuleType) -> None:
    idle, busy = Queue(), Queue()  # type: ignore[var-annotated]
    waiting = running.stub().ModelStreamInfer(iter(idle.get, None), timeout=60)
    idle.put(request(kit))
    assert next(waiting).infer_response.model_name == "free"
    working = running.stub("network").ModelStreamInfer(iter(busy.get, None), timeout=60)
    busy.put(request(kit, "held"))
    assert running.held.entered.acquire(timeout=SOON_S)
    stopping = Thread(target=running.server.stop, args=(40,))
    started = time.monotonic()
    stopping.start()
    running.held.go.set()
    assert next(working).infer_response.model_name == "held"
    for stream in (waiting, working):
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    stopping.join()
    assert time.monotonic() - started < 20  # half of the grace
    idle.put(None)
    busy.put(None)


@pytest.mark.parametrize("stream", [False, True])
def test_an_accident_is_told_as_a_number_that_the_log_knows(
    running: Running, kit: ModuleType, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    class Broken:
        provider = "CPUExecutionProvider"

        def run(self, inputs: Any, stop: Any = None) -> EngineResult:
            raise RuntimeError("/secret/path")

        def close(self) -> None:
            pass

    found = running.service.residents.find("free", "")
    running.service.residents.switch(Resident(found.manifest, found.digest, Broken()))
    if stream:
        broken, good = running.stub().ModelStreamInfer(iter([request(kit), request(kit, "none")]), timeout=SOON_S)
        said = broken.error_message
        assert "No model 'none'" in good.error_message
    else:
        with pytest.raises(grpc.RpcError) as caught:
            running.stub().ModelInfer(request(kit), timeout=SOON_S)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        said = caught.value.details()
    incident = said.removeprefix("The request failed; the device's log knows it as ").removesuffix(".")
    assert len(incident) == 12
    assert incident in caplog.text
    assert "/secret/path" in caplog.text
    assert "secret" not in said


def test_a_message_may_hold_a_full_batch_of_the_largest_model(packages: Callable, trust: TrustDocument) -> None:
    service = Watched(Gate(1))
    assert message_limit(service) == serving.MIN_MESSAGE_BYTES
    built = packages()
    for shape, batch, limit in (
        ((-1, 224, 224, 3), 32, 224 * 224 * 3 * 4 * 32 + serving.MESSAGE_ROOM_BYTES),
        ((-1, 4096, 4096), 1024, serving.MAX_MESSAGE_BYTES),
    ):
        manifest = replace(built.manifest, inputs=(TensorSpec("image", "FP32", shape),), max_batch=batch)
        engine = load(trusting.open_package(built.folder, trust), 1)
        service.residents.switch(Resident(manifest, built.digest, engine))
        assert message_limit(service) == limit


def test_a_large_batch_comes_back_whole_and_more_than_a_message_may_hold_is_refused(
    short: Path, tmp_path: Path, kit: ModuleType, trust: TrustDocument
) -> None:
    built = kit.build_echo(tmp_path / "wide", "FP32", width=1 << 20)
    service = Watched(Gate(1))
    engine = load(trusting.open_package(built.folder, trust), 1)
    service.residents.switch(Resident(built.manifest, built.digest, engine))
    server = InferenceServer(service, short / "i.sock", None, "0.1.0", lambda: True)
    server.start()
    rows = numpy.arange(8 << 20, dtype=numpy.float32).reshape(8, 1 << 20)
    assert rows.nbytes > serving.MIN_MESSAGE_BYTES
    with Client(f"unix:{server.socket}") as client:
        answer = client.infer(built.manifest.name, {"x": rows}, timeout_s=30)
        numpy.testing.assert_array_equal(answer.outputs["y"], rows)
        with pytest.raises(Overloaded):
            client.infer(built.manifest.name, {"x": numpy.concatenate([rows, rows])}, timeout_s=30)
        assert client.infer(built.manifest.name, {"x": rows[:1]}, timeout_s=30).version == "1.0.0"
    server.stop(5)


def test_an_id_is_bounded(running: Running, kit: ModuleType) -> None:
    message = request(kit)
    message.id = "x" * 1024
    assert running.stub().ModelInfer(message, timeout=SOON_S).id == message.id
    message.id += "x"
    with pytest.raises(grpc.RpcError, match="id is too long"):
        running.stub().ModelInfer(message, timeout=SOON_S)

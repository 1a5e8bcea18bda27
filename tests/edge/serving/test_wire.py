"""The Open Inference Protocol as a client sees it: unmodified tritonclient over a Unix socket and over TCP."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from types import ModuleType

import grpc
import numpy
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hybridge_edge import trust as trusting
from hybridge_edge.capture import Observation
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import InvalidInput, ModelNotFound, Unavailable, UsageError
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import Arrays, Engine, EngineResult, Stop, load
from hybridge_edge.loopback import parse_tcp
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer
from hybridge_edge.serving.service import Service

FACTOR = 3.0


class SlowEngine:
    """A real engine that waits for a word before it runs."""

    provider = "CPUExecutionProvider"
    degraded = ""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.go, self.entered, self.closed = Event(), Event(), Event()

    def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
        self.entered.set()
        assert self.go.wait(20)
        return self.inner.run(inputs)

    def close(self) -> None:
        assert not self.closed.is_set(), "an engine is closed once"
        self.closed.set()
        self.inner.close()


class Kept:
    """Remembers what was offered."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def offer(self, observation: Observation) -> None:
        self.observations.append(observation)


@dataclass
class Running:
    service: Service
    server: InferenceServer
    kept: Kept
    resident: Resident
    fresh: Callable[[], Engine]

    def put(self, engine: Engine) -> None:
        """Switch to the same package with this engine."""
        self.service.residents.switch(Resident(self.resident.manifest, self.resident.digest, engine))

    @property
    def unix(self) -> str:
        return f"unix:{self.server.socket}"

    @property
    def network(self) -> str:
        return f"unix:{self.server.network}"


@pytest.fixture
def running(short: Path, packages: Callable, trust: TrustDocument) -> Iterator[Running]:
    built = packages("1.0.0", FACTOR)
    service = Service(Gate(1, waiting=1), lambda model, digest: None)

    def fresh() -> Engine:
        return load(trusting.open_package(built.folder, trust), 1)

    resident = Resident(built.manifest, built.digest, fresh())
    service.residents.switch(resident)
    kept = Kept()
    service.capture = kept
    server = InferenceServer(service, short / "i.sock", short / "n.sock", "0.1.0", lambda: True)
    server.start()
    yield Running(service, server, kept, resident, fresh)
    server.stop(0)


def stub(target: str) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(target))


def raw_request(array: numpy.ndarray, **fields: object) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(**{"model_name": "watch", "id": "s-1", **fields})
    request.inputs.add(name="window", datatype="FP32", shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return request


def refused(running: Running, request: service_pb2.ModelInferRequest) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        stub(running.unix).ModelInfer(request, timeout=10)
    return caught.value


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_tritonclient_gets_the_right_numbers(running: Running, kit: ModuleType, transport: str, rows: int) -> None:
    client = triton.InferenceServerClient(running.unix if transport == "unix" else running.network)
    window = kit.window(rows)
    tensor = triton.InferInput("window", window.shape, "FP32")
    tensor.set_data_from_numpy(window)
    result = client.infer(
        "watch", [tensor], request_id="recording-3/120", outputs=[triton.InferRequestedOutput("scores")]
    )
    numpy.testing.assert_allclose(result.as_numpy("scores"), kit.scores(window, FACTOR), rtol=1e-5, atol=1e-6)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("watch", "1.0.0", "recording-3/120")
    parameters = response.parameters
    assert parameters["sample_id"].string_param == "recording-3/120"
    assert parameters["provider"].string_param == "CPUExecutionProvider"
    assert parameters["package_digest"].string_param == running.resident.digest
    times = [parameters[f"{name}_us"].int64_param for name in ("copy", "queue", "features", "infer", "total")]
    assert times[4] >= sum(times[:4]) - 4
    client.close()


def test_typed_contents_are_answered_typed(running: Running, kit: ModuleType) -> None:
    window = kit.window(2)
    request = service_pb2.ModelInferRequest(model_name="watch")
    request.inputs.add(name="window", datatype="FP32", shape=window.shape).contents.fp32_contents.extend(
        window.ravel().tolist()
    )
    response = stub(running.unix).ModelInfer(request, timeout=10)
    assert not response.raw_output_contents
    found = numpy.array(response.outputs[0].contents.fp32_contents, numpy.float32).reshape(response.outputs[0].shape)
    numpy.testing.assert_allclose(found, kit.scores(window, FACTOR), rtol=1e-5, atol=1e-6)
    assert len(response.id) == 32  # the server chose an id


def test_health_and_metadata(running: Running) -> None:
    client = triton.InferenceServerClient(running.network)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("watch")
    assert client.is_model_ready("watch", "1.0.0")
    assert not client.is_model_ready("watch", "9.0.0")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "hybridge"
    metadata = client.get_model_metadata("watch")
    assert list(metadata.versions) == ["1.0.0"]
    assert (metadata.inputs[0].name, metadata.inputs[0].datatype) == ("window", "FP32")
    assert list(metadata.inputs[0].shape) == [-1, 8, 3]
    assert metadata.outputs[0].name == "scores"
    client.close()


def test_what_does_not_fit_the_signature_is_invalid_and_says_what_would(running: Running, kit: ModuleType) -> None:
    def typed(**contents: object) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest(model_name="watch")
        kind = contents.pop("datatype", "FP32")
        request.inputs.add(name="window", datatype=kind, shape=[1, 8, 3], contents=contents)
        return request

    window = kit.window()
    name = raw_request(window)
    name.inputs[0].name = "windw"
    kind = raw_request(window.astype(numpy.float64))
    kind.inputs[0].datatype = "FP64"
    unknown_kind = raw_request(window)
    unknown_kind.inputs[0].datatype = "FP8"
    brain = raw_request(window)
    brain.inputs[0].datatype = "BF16"
    huge = raw_request(window)
    huge.inputs[0].shape[:] = [2**62, 2**62, 4]
    negative = raw_request(window)
    negative.inputs[0].shape[:] = [-1, -8, 3]
    short = raw_request(window)
    short.raw_input_contents[0] = short.raw_input_contents[0][:-1]
    both = raw_request(window)
    both.inputs[0].contents.fp32_contents.append(1.0)
    count = raw_request(window)
    count.raw_input_contents.append(b"")
    twice = raw_request(window)
    twice.inputs.add(name="window", datatype="FP32", shape=window.shape)
    twice.raw_input_contents.append(window.tobytes())
    output = raw_request(window)
    output.outputs.add(name="score")
    many = raw_request(window)
    for number in range(100):
        many.inputs.add(name=str(number), datatype="FP32", shape=[0])
    parameter = raw_request(window)
    parameter.parameters["hybridge_capture"].string_param = "no"
    cases = [
        (name, "no input 'windw'. Its inputs: window."),
        (kind, "Send FP32 of shape [-1, 8, 3]."),
        (unknown_kind, "datatype 'FP8'. Use one of BOOL, "),
        (brain, "is of BF16, and numpy has no such type"),
        (raw_request(kit.window()[0]), "Send FP32 of shape [-1, 8, 3]."),
        (raw_request(kit.window(1)[:, :7]), "has shape [1, 7, 3]"),
        (raw_request(kit.window(9)), "Send 1 to 8 rows"),
        (raw_request(kit.window(1)[:0]), "has 0 rows"),
        (huge, "impossible shape"),
        (negative, "impossible shape"),
        (short, "needs 96 bytes; 95 came"),
        (both, "raw and typed"),
        (count, "2 raw contents"),
        (twice, "stands twice"),
        (output, "Output 'score'"),
        (many, "at most 64"),
        (parameter, "Send bool_param"),
        (service_pb2.ModelInferRequest(model_name="watch"), "Input 'window' of watch is missing"),
        (typed(fp32_contents=[1.0] * 23), "needs 24 elements; 23 came"),
        (typed(fp64_contents=[1.0] * 24), "fills fp64_contents"),
        (typed(int_contents=[300] * 24, datatype="INT8"), "cannot hold"),
        (typed(datatype="FP16"), "raw only"),
    ]
    for request, sentence in cases:
        error = refused(running, request)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
        assert sentence in error.details(), error.details()
    assert running.service.counters("watch").failures == 0


def test_what_is_not_here_is_not_found(running: Running, kit: ModuleType) -> None:
    for fields in ({"model_name": "other"}, {"model_version": "2.0.0"}):
        assert refused(running, raw_request(kit.window(), **fields)).code() is grpc.StatusCode.NOT_FOUND


def test_a_failing_engine_tells_the_caller_nothing_but_a_number(running: Running, kit: ModuleType) -> None:
    class Broken(SlowEngine):
        def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
            raise RuntimeError("/secret/path")

    running.put(Broken(running.fresh()))
    error = refused(running, raw_request(kit.window()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert running.service.counters("watch").failures == 1


def test_more_than_the_queue_holds_is_told_at_once(running: Running, kit: ModuleType) -> None:
    slow = SlowEngine(running.fresh())
    running.put(slow)
    first = stub(running.unix).ModelInfer.future(raw_request(kit.window()), timeout=20)
    assert slow.entered.wait(10)
    second = stub(running.unix).ModelInfer.future(raw_request(kit.window()), timeout=20)
    third = stub(running.unix).ModelInfer.future(raw_request(kit.window()), timeout=20)
    over = Queue()
    for call in (second, third):
        call.add_done_callback(over.put)
    assert over.get(timeout=20).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    slow.go.set()
    assert over.get(timeout=20).code() is grpc.StatusCode.OK
    assert first.result().model_version == "1.0.0"


def test_a_request_in_flight_ends_on_the_model_it_began_with(
    running: Running, packages: Callable, kit: ModuleType, trust: TrustDocument
) -> None:
    slow = SlowEngine(running.fresh())
    running.put(slow)
    call = stub(running.unix).ModelInfer.future(raw_request(kit.window()), timeout=20)
    assert slow.entered.wait(10)
    new = packages("1.1.0", 7.0)
    engine = load(trusting.open_package(new.folder, trust), 1)
    running.service.residents.switch(Resident(new.manifest, new.digest, engine))
    third = packages("1.2.0", 9.0)
    running.service.residents.switch(Resident(third.manifest, third.digest, SlowEngine(running.fresh())))
    assert not slow.closed.is_set()
    slow.go.set()
    response = call.result()
    assert slow.closed.wait(10)
    assert response.model_version == "1.0.0"
    running.service.residents.switch(running.service.residents.find("watch", "1.1.0"), back=True)
    found = numpy.frombuffer(response.raw_output_contents[0], numpy.float32).reshape(1, 3)
    numpy.testing.assert_allclose(found, kit.scores(kit.window(), FACTOR), rtol=1e-5, atol=1e-6)
    assert stub(running.unix).ModelInfer(raw_request(kit.window())).model_version == "1.1.0"


def test_a_stop_lets_running_requests_end_and_takes_no_new_ones(running: Running, kit: ModuleType) -> None:
    slow = SlowEngine(running.fresh())
    running.put(slow)
    client = stub(running.unix)
    call = client.ModelInfer.future(raw_request(kit.window()), timeout=20)
    assert slow.entered.wait(10)
    stopping = Thread(target=running.server.stop, args=(20,))
    stopping.start()
    codes = set()
    while grpc.StatusCode.UNAVAILABLE not in codes:
        late = client.ModelInfer.future(raw_request(kit.window()), timeout=1)
        codes.add(late.code())
    slow.go.set()
    assert call.result().model_version == "1.0.0"
    stopping.join()


def test_each_row_is_offered_once_with_its_own_id_and_never_the_raw_input(running: Running, kit: ModuleType) -> None:
    window = kit.window(2)
    stub(running.unix).ModelInfer(raw_request(window[:1], id="a"))
    stub(running.unix).ModelInfer(raw_request(window, id="b"))
    quiet = raw_request(window)
    quiet.parameters["hybridge_capture"].bool_param = False
    stub(running.unix).ModelInfer(quiet)
    kept = running.kept.observations
    assert [one.sample_id for one in kept] == ["a", "b/0", "b/1"]
    assert set(kept[0].features) == {"mean"}
    numpy.testing.assert_allclose(kept[2].features["mean"], window[1].mean(axis=0), rtol=1e-5, atol=1e-6)
    numpy.testing.assert_allclose(kept[2].outputs["scores"], kit.scores(window, FACTOR)[1], rtol=1e-5, atol=1e-6)
    assert kept[2].confidence == pytest.approx(float(kept[2].outputs["scores"].max()))
    assert kept[2].features_digest == running.resident.manifest.features_digest


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "quote'"])
def test_an_id_comes_back_and_one_that_cannot_name_a_sample_names_none(
    running: Running, kit: ModuleType, given: str
) -> None:
    response = stub(running.unix).ModelInfer(raw_request(kit.window(), id=given))
    assert response.id == (given or response.parameters["sample_id"].string_param)
    assert len(response.parameters["sample_id"].string_param) == 32


def test_our_client(running: Running, kit: ModuleType) -> None:
    with Client(running.unix) as client:
        assert client.model_ready("watch")
        answer = client.infer("watch", {"window": kit.window()}, sample_id="mine")
        numpy.testing.assert_allclose(answer.outputs["scores"], kit.scores(kit.window(), FACTOR), rtol=1e-5, atol=1e-6)
        assert (answer.version, answer.sample_id, answer.digest) == ("1.0.0", "mine", running.resident.digest)
        with pytest.raises(InvalidInput, match="no input 'other'"):
            client.infer("watch", {"other": kit.window()})
        with pytest.raises(InvalidInput, match="type complex"):
            client.infer("watch", {"window": kit.window().astype(numpy.complex64)})
        with pytest.raises(ModelNotFound, match="Active models: watch"):
            client.infer("none", {"window": kit.window()})
    with Client("unix:/tmp/no-such-socket") as client, pytest.raises(Unavailable):
        client.infer("watch", {"window": kit.window()}, timeout_s=2)


@pytest.mark.parametrize("text", ["0.0.0.0:80", "10.0.0.1:80", "127.0.0.1", "127.0.0.1:x", "localhost:70000", "a:1"])
def test_nothing_listens_beyond_this_machine(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tcp(text)


def test_threads_share_one_client(running: Running, kit: ModuleType) -> None:
    service = running.service
    service.runner.gate = Gate(2)
    errors: list[BaseException] = []

    def ask(seed: int) -> None:
        window = kit.window(seed=seed)
        try:
            for _ in range(20):
                answer = client.infer("watch", {"window": window})
                numpy.testing.assert_allclose(
                    answer.outputs["scores"], kit.scores(window, FACTOR), rtol=1e-5, atol=1e-6
                )
        except BaseException as error:
            errors.append(error)

    with Client(running.unix) as client:
        threads = [Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert service.counters("watch").requests == 80


def test_a_message_that_is_no_message_is_refused_and_the_server_lives(running: Running, kit: ModuleType) -> None:
    channel = grpc.insecure_channel(running.unix)
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", lambda data: data, lambda data: data)
    for data in (b"\xff" * 40, struct.pack("<Q", 2**63) * 9):
        with pytest.raises(grpc.RpcError):
            call(data, timeout=10)
    assert stub(running.unix).ModelInfer(raw_request(kit.window())).model_version == "1.0.0"

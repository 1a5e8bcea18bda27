"""What the protocol's clients ask beside inferences, and who may ask what: unmodified tritonclient, a real server."""

import asyncio
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from hybridge_edge.arrays import NUMPY_TYPES

TRANSPORTS = ("inference", "tcp")
Stub = service_pb2_grpc.GRPCInferenceServiceStub


def stub(server: Any, transport: str = "inference") -> Stub:
    return Stub(grpc.insecure_channel(getattr(server.endpoint, transport)))


@pytest.fixture
def client(echoes: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(echoes.endpoint.inference) as one:
        yield one


def window_input(window: numpy.ndarray) -> triton.InferInput:
    tensor = triton.InferInput("window", window.shape, "FP32")
    tensor.set_data_from_numpy(window)
    return tensor


def request(kit: ModuleType, rows: int = 1, **fields: object) -> service_pb2.ModelInferRequest:
    window = kit.window(rows)
    made = service_pb2.ModelInferRequest(**{"model_name": "watch", **fields}, raw_input_contents=[window.tobytes()])
    made.inputs.add(name="window", datatype="FP32", shape=window.shape)
    return made


def refused(ask: Callable[..., object], message: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(message, timeout=10)
    return caught.value.code(), caught.value.details()


def test_a_configuration_is_what_the_manifest_says(client: triton.InferenceServerClient, kit: ModuleType) -> None:
    config = client.get_model_config("watch").config
    assert (config.name, config.platform, config.backend) == ("watch", "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 8
    (given,), (made,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("window", model_config_pb2.TYPE_FP32, [8, 3])
    assert (made.name, made.data_type, list(made.dims)) == ("scores", model_config_pb2.TYPE_FP32, [3])
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert not config.model_transaction_policy.decoupled
    assert config.version_policy.latest.num_versions == 2
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert config.parameters["version"].string_value == "1.1.0"
    assert client.get_model_config("watch", "1.0.0").config.parameters["version"].string_value == "1.0.0"
    for datatype in NUMPY_TYPES:
        name = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
        found = client.get_model_config(kit.echo_name(datatype)).config.input[0].data_type
        assert model_config_pb2.DataType.Name(found) == name
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.get_model_config("watch", "9.0.0")


def test_statistics_count_rows_runs_and_time(
    client: triton.InferenceServerClient, echoes: Any, kit: ModuleType
) -> None:
    def read(version: str = "1.1.0") -> service_pb2.ModelStatistics:
        (found,) = client.get_inference_statistics("watch", version).model_stats
        return found

    before, others = read(), read("1.0.0")
    for rows in (1, 2, 3):
        client.infer("watch", [window_input(kit.window(rows))])
    with pytest.raises(triton.InferenceServerException):
        client.infer("watch", [window_input(kit.window(9))])
    after = read()
    assert after.inference_count - before.inference_count == 6
    assert after.execution_count - before.execution_count == 3
    assert {batch.batch_size for batch in after.batch_stats} >= {1, 2, 3}
    assert after.last_inference > 1_700_000_000_000
    now, then = after.inference_stats, before.inference_stats
    assert now.success.count - then.success.count == 3
    assert now.compute_infer.ns > then.compute_infer.ns
    assert now.success.ns >= now.queue.ns + now.compute_infer.ns + now.compute_input.ns - 4000 * now.success.count
    assert now.fail.count == then.fail.count  # what a caller got wrong is no failure of the model
    assert read("1.0.0").inference_count == others.inference_count
    everything = client.get_inference_statistics().model_stats
    assert {one.name for one in everything} >= {"watch", *map(kit.echo_name, NUMPY_TYPES)}
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.get_inference_statistics("none")


def test_the_index_lists_every_version_and_its_state(server: Any, packages: Callable, kit: ModuleType) -> None:
    server.start()
    server.hand_over(packages("1.0.0", 1.0).handover(1))
    server.hand_over(packages("1.1.0", 2.0).handover(2))
    server.hand_over(packages("1.2.0", 3.0, golden_error=1.0).handover(3))

    def index(transport: str, ready: bool = False) -> dict[str, tuple[str, bool]]:
        answer = stub(server, transport).RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=ready), timeout=10)
        return {one.version: (one.state, bool(one.reason)) for one in answer.models if one.name == "watch"}

    good = {"1.0.0": ("READY", False), "1.1.0": ("READY", False)}
    assert index("inference") == {**good, "1.2.0": ("UNAVAILABLE", True)}
    assert index("tcp") == {**good, "1.2.0": ("UNAVAILABLE", False)}
    assert index("tcp", ready=True) == good
    stub(server).RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="watch"), timeout=10)
    assert index("inference")["1.1.0"] == ("UNAVAILABLE", False)
    assert index("inference", ready=True) == {}


def test_a_model_is_unloaded_and_loaded_again_on_the_unix_socket(
    client: triton.InferenceServerClient, kit: ModuleType
) -> None:
    client.unload_model("echo-int8")
    assert not client.is_model_ready("echo-int8")
    assert client.is_model_ready("watch")
    assert not client.is_server_ready()
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.unload_model("echo-int8")
    client.load_model("echo-int8")
    client.load_model("echo-int8")  # what answers already goes on
    assert client.is_server_ready()
    values = kit.echo_values("INT8")
    tensor = triton.InferInput("x", values.shape, "INT8")
    tensor.set_data_from_numpy(values)
    numpy.testing.assert_array_equal(client.infer("echo-int8", [tensor]).as_numpy("y"), values)
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.load_model("none")
    with pytest.raises(triton.InferenceServerException, match="'config' is not taken"):
        client.load_model("echo-int8", config="{}")


VERBS: dict[str, tuple[Callable[[Stub], Callable], object]] = {
    "infer": (lambda one: one.ModelInfer, None),
    "metadata": (lambda one: one.ModelMetadata, service_pb2.ModelMetadataRequest(name="watch")),
    "server metadata": (lambda one: one.ServerMetadata, service_pb2.ServerMetadataRequest()),
    "configuration": (lambda one: one.ModelConfig, service_pb2.ModelConfigRequest(name="watch")),
    "statistics": (lambda one: one.ModelStatistics, service_pb2.ModelStatisticsRequest()),
    "live": (lambda one: one.ServerLive, service_pb2.ServerLiveRequest()),
    "ready": (lambda one: one.ServerReady, service_pb2.ServerReadyRequest()),
    "model ready": (lambda one: one.ModelReady, service_pb2.ModelReadyRequest(name="watch")),
    "index": (lambda one: one.RepositoryIndex, service_pb2.RepositoryIndexRequest()),
    "load": (lambda one: one.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(model_name="watch")),
    "unload none": (lambda one: one.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest(model_name="no")),
}
OK, NOT_FOUND, DENIED = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED
S9 = {
    **{verb: {"inference": OK, "tcp": OK} for verb in VERBS},
    "load": {"inference": OK, "tcp": DENIED},
    "unload none": {"inference": NOT_FOUND, "tcp": DENIED},
}
"""Who may do what, without certificates: everybody on loopback may ask, the Unix socket may manage."""


@pytest.mark.parametrize("verb", VERBS)
def test_s9_each_verb_has_its_status_on_each_transport(echoes: Any, kit: ModuleType, verb: str) -> None:
    method, message = VERBS[verb]
    found = {}
    for transport in TRANSPORTS:
        call = method(stub(echoes, transport)).future(message or request(kit), timeout=10)
        found[transport] = call.code()
    assert found == S9[verb]


def test_what_clients_probe_and_we_do_not_have_says_what_to_do_instead(client: triton.InferenceServerClient) -> None:
    probes: list[Callable[[], object]] = [
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        lambda: client.register_system_shared_memory("a", "/a", 16),
        lambda: client.register_cuda_shared_memory("a", b"aGFuZGxl", 0, 16),
        client.unregister_system_shared_memory,
        client.unregister_cuda_shared_memory,
    ]
    for probe in probes:
        with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED.*Send tensors in the request"):
            probe()
    for probe in (client.get_trace_settings, client.get_log_settings):
        with pytest.raises(triton.InferenceServerException, match=r"UNIMPLEMENTED.*where its time went"):
            probe()


def test_a_request_names_outputs_version_and_id(client: triton.InferenceServerClient, kit: ModuleType) -> None:
    window = kit.window(2)
    for version, factor in (("1.0.0", 1.0), ("1.1.0", 2.0), ("", 2.0)):
        result = client.infer(
            "watch",
            [window_input(window)],
            version,
            [triton.InferRequestedOutput("scores")],
            request_id="an id with spaces",
            timeout=5_000_000,
        )
        numpy.testing.assert_allclose(result.as_numpy("scores"), kit.scores(window, factor), rtol=1e-5, atol=1e-6)
        response = result.get_response()
        assert response.id == "an id with spaces"
        assert response.model_version == (version or "1.1.0")
        assert response.parameters["copy_us"].int64_param >= 0


PARAMETERS = {
    "unknown": ({"colour": "red"}, "'colour' is unknown. Known ones: hybridge_capture, timeout"),
    "capture": ({"hybridge_capture": "no"}, "Send bool_param"),
    "timeout of another type": ({"timeout": "1"}, "Send int64_param, in microseconds"),
    "negative timeout": ({"timeout": -1}, "Send microseconds from 0"),
    "priority": ({"priority": 3}, "this server has none"),
    "sequence": ({"sequence_id": 7}, "keeps nothing between requests"),
    "named sequence": ({"sequence_id": "seven"}, "keeps nothing between requests"),
    "start of a sequence": ({"sequence_start": True}, "keeps nothing between requests"),
}
HARMLESS = {
    "hybridge_capture": False,
    "timeout": 0,
    "priority": 0,
    "sequence_id": 0,
    "sequence_start": False,
    "triton_enable_empty_final_response": True,
    "binary_data_output": True,
}


def with_parameters(message: service_pb2.ModelInferRequest, parameters: dict) -> service_pb2.ModelInferRequest:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(message.parameters[name], fields[type(value)], value)
    return message


@pytest.mark.parametrize("case", PARAMETERS)
def test_a_parameter_that_would_do_nothing_is_refused_with_the_reason(echoes: Any, kit: ModuleType, case: str) -> None:
    parameters, sentence = PARAMETERS[case]
    code, details = refused(stub(echoes).ModelInfer, with_parameters(request(kit), parameters))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in details


def test_parameters_that_change_nothing_are_taken(echoes: Any, kit: ModuleType) -> None:
    assert stub(echoes).ModelInfer(with_parameters(request(kit), HARMLESS), timeout=10).model_version == "1.1.0"


def test_tensors_in_shared_memory_and_classifications_are_refused(
    client: triton.InferenceServerClient, echoes: Any, kit: ModuleType
) -> None:
    away = triton.InferInput("window", [1, 8, 3], "FP32")
    away.set_shared_memory("region", 96)
    with pytest.raises(triton.InferenceServerException, match="does not map"):
        client.infer("watch", [away])
    with pytest.raises(triton.InferenceServerException, match="largest elements"):
        client.infer(
            "watch", [window_input(kit.window())], outputs=[triton.InferRequestedOutput("scores", class_count=2)]
        )
    sized = request(kit)
    sized.inputs[0].parameters["binary_data_size"].int64_param = 96
    assert stub(echoes).ModelInfer(sized, timeout=10).model_name == "watch"
    sized.inputs[0].parameters["colour"].string_param = "red"
    code, details = refused(stub(echoes).ModelInfer, sized)
    assert (code, "'colour' of tensor 'window'" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_asyncio_client(echoes: Any, kit: ModuleType, transport: str) -> None:
    async def ask() -> list[numpy.ndarray]:
        async with triton_aio.InferenceServerClient(getattr(echoes.endpoint, transport)) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("watch", "1.1.0")
            assert (await client.get_model_config("watch")).config.max_batch_size == 8
            windows = [kit.window(1, seed) for seed in range(8)]
            answers = await asyncio.gather(*(client.infer("watch", [window_input(one)]) for one in windows))
            return [answer.as_numpy("scores") for answer in answers]

    for seed, found in enumerate(asyncio.run(ask())):
        numpy.testing.assert_allclose(found, kit.scores(kit.window(1, seed), 2.0), rtol=1e-5, atol=1e-6)


def test_a_message_of_another_verb_is_the_callers_mistake(echoes: Any) -> None:
    channel = grpc.insecure_channel(echoes.endpoint.inference)
    for verb in ("ModelInfer", "ModelMetadata", "ModelReady"):
        ask = channel.unary_unary(f"/inference.GRPCInferenceService/{verb}", lambda data: data, lambda data: data)
        assert refused(ask, b"\x0a\x05ab")[0] is grpc.StatusCode.INVALID_ARGUMENT
    unknown = channel.unary_unary("/inference.GRPCInferenceService/ModelDance", lambda data: data, lambda data: data)
    assert refused(unknown, b"")[0] is grpc.StatusCode.UNIMPLEMENTED

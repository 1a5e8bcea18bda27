"""Streams of inferences: unmodified tritonclient and bare gRPC against a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from queue import Queue
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hybridge_edge.serving.server import STREAMS

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


def window_input(window: numpy.ndarray, name: str = "window") -> triton.InferInput:
    tensor = triton.InferInput(name, window.shape, "FP32")
    tensor.set_data_from_numpy(window)
    return tensor


def request(kit: ModuleType, rows: int = 1, **fields: object) -> service_pb2.ModelInferRequest:
    window = kit.window(rows)
    made = service_pb2.ModelInferRequest(**{"model_name": "watch", **fields}, raw_input_contents=[window.tobytes()])
    made.inputs.add(name="window", datatype="FP32", shape=window.shape)
    return made


def bare(server: Any, messages: Iterator[bytes], **options: object) -> Any:
    """A stream of bytes in, ModelStreamInferResponses out."""
    channel = grpc.insecure_channel(server.endpoint.inference)
    read = service_pb2.ModelStreamInferResponse.FromString
    return channel.stream_stream(METHOD, lambda data: data, read)(messages, **options)


@pytest.mark.parametrize("transport", ["inference", "tcp"])
def test_answers_come_in_the_order_of_requests_and_a_mistake_ends_nothing(
    echoes: Any, kit: ModuleType, transport: str
) -> None:
    answers: Queue = Queue()
    with triton.InferenceServerClient(getattr(echoes.endpoint, transport)) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(200):
            name = "window" if number % 10 else "windw"
            client.async_stream_infer(
                "watch",
                [window_input(kit.window(1, number), name)],
                request_id=str(number),
                enable_empty_final_response=True,
            )
        for number in range(200):
            result, error = answers.get(timeout=20)
            if number % 10:
                assert error is None
                response = result.get_response()
                assert response.id == str(number)
                assert response.parameters["triton_final_response"].bool_param
                expected = kit.scores(kit.window(1, number), 2.0)
                numpy.testing.assert_allclose(result.as_numpy("scores"), expected, rtol=1e-5, atol=1e-6)
            else:
                assert "no input 'windw'" in error.message()
        client.stop_stream()


def test_the_asyncio_client_streams(echoes: Any, kit: ModuleType) -> None:
    async def ask() -> list[tuple[str, numpy.ndarray]]:
        async def windows() -> AsyncIterator[dict[str, object]]:
            for number in range(20):
                yield {
                    "model_name": "watch",
                    "inputs": [window_input(kit.window(1, number))],
                    "request_id": str(number),
                }

        found = []
        async with triton_aio.InferenceServerClient(echoes.endpoint.inference) as client:
            async for result, error in client.stream_infer(windows()):
                assert error is None
                found.append((result.get_response().id, result.as_numpy("scores")))
        return found

    for number, (name, found) in enumerate(asyncio.run(ask())):
        assert name == str(number)
        numpy.testing.assert_allclose(found, kit.scores(kit.window(1, number), 2.0), rtol=1e-5, atol=1e-6)


def test_an_error_names_its_request_and_other_bytes_name_none(echoes: Any, kit: ModuleType) -> None:
    sent = [
        request(kit, id="good").SerializeToString(),
        request(kit, id="too-many", rows=9).SerializeToString(),
        request(kit, id="nobody", model_name="none").SerializeToString(),
        b"\xff" * 30,
        request(kit, id="again").SerializeToString(),
    ]
    answers = list(bare(echoes, iter(sent), timeout=20))
    assert [one.infer_response.id for one in answers] == ["good", "too-many", "nobody", "", "again"]
    assert [bool(one.error_message) for one in answers] == [False, True, True, True, False]
    said = [one.infer_response.parameters["status"].string_param for one in answers if one.error_message]
    assert said == ["INVALID_ARGUMENT", "NOT_FOUND", "INVALID_ARGUMENT"]
    assert "Send 1 to 8 rows" in answers[1].error_message
    assert "Active models: " in answers[2].error_message
    assert "no ModelInferRequest" in answers[3].error_message
    assert answers[4].infer_response.raw_output_contents == answers[0].infer_response.raw_output_contents


def test_more_streams_than_there_is_room_for_are_told_and_a_closed_one_makes_room(echoes: Any, kit: ModuleType) -> None:
    queues, streams = [], []
    for _ in range(STREAMS):
        queue: Queue = Queue()
        stream = bare(echoes, iter(queue.get, None), timeout=30)
        queue.put(request(kit).SerializeToString())
        assert next(stream).infer_response.model_name == "watch"
        queues.append(queue)
        streams.append(stream)
    with pytest.raises(grpc.RpcError) as caught:
        next(bare(echoes, iter([request(kit).SerializeToString()]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "send single requests" in caught.value.details()
    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(echoes.endpoint.inference))
    assert stub.ModelInfer(request(kit), timeout=10).model_name == "watch"
    queues[0].put(None)
    assert list(streams[0]) == []
    for queue in queues[1:]:
        queue.put(None)
    for _ in range(100):
        again = bare(echoes, iter([request(kit).SerializeToString()]), timeout=10)
        try:
            assert next(again).infer_response.model_name == "watch"
        except grpc.RpcError:
            continue  # the server has not seen the end of the others yet
        break
    else:
        pytest.fail("no room came free")

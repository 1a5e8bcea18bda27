"""What can be said in a request and in an answer: S11's list of what cannot, and that all else goes there and back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.client import wording
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.tensors import MAX_ELEMENTS, TensorSpec
from hybridge_edge.serving import codec, requests, responses, wire_format
from hybridge_edge.serving.contents import TYPED, to_raw
from hybridge_edge.serving.service import Answer


def written(model: str, version: str, sample_id: str, name: str, array: Any, *, capture: bool) -> Any:
    """What our client writes, read back."""
    sent = wording.request(model, version, sample_id, {name: array}, (), capture=capture, timeout_us=0)
    return messages.ModelInferRequest.FromString(sent)


def raw_request(model: str, array: numpy.ndarray, name: str = "x", **fields: object) -> messages.ModelInferRequest:
    made = written(model, "", "", name, array, capture=True)
    made.MergeFrom(messages.ModelInferRequest(**fields))
    return made


def typed_request(model: str, datatype: str, array: numpy.ndarray, name: str = "x") -> messages.ModelInferRequest:
    made = messages.ModelInferRequest(model_name=model)
    tensor = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
    getattr(tensor.contents, TYPED[datatype]).extend(array.ravel().tolist())
    return made


def refusal(message: bytes | messages.ModelInferRequest) -> str:
    with pytest.raises(InvalidInput) as caught:
        requests.decode(message if isinstance(message, bytes) else message.SerializeToString())
    return str(caught.value)


def fp32(shape: list[int], raw: bytes = b"", **tensor: object) -> messages.ModelInferRequest:
    made = messages.ModelInferRequest(model_name="m", raw_input_contents=[raw])
    made.inputs.add(**{"name": "x", "datatype": "FP32", "shape": shape, **tensor})
    return made


def many_inputs(count: int) -> messages.ModelInferRequest:
    made = messages.ModelInferRequest(model_name="m")
    for number in range(count):
        made.inputs.add(name=str(number), datatype="FP32", shape=[0])
    return made


S11: dict[str, tuple[Callable[[], messages.ModelInferRequest], str]] = {
    "fewer bytes than shape and type": (lambda: fp32([2, 2], b"x" * 15), "needs 16 bytes; 15 came"),
    "more bytes than shape and type": (lambda: fp32([2, 2], b"x" * 17), "needs 16 bytes; 17 came"),
    "bytes of another type": (lambda: fp32([2], b"x" * 8, datatype="FP64"), "needs 16 bytes; 8 came"),
    "a negative dimension": (lambda: fp32([-1, 4], b"x" * 16), "impossible shape"),
    "two negative dimensions": (lambda: fp32([-2, -2], b"x" * 16), "impossible shape"),
    "the smallest dimension": (lambda: fp32([-(2**63)], b""), "impossible shape"),
    "dimensions whose product is 0 in 64 bits": (lambda: fp32([2**32, 2**32], b""), "impossible shape"),
    "dimensions whose product is 4 in 64 bits": (lambda: fp32([2**62 + 1, 4], b"x" * 16), "impossible shape"),
    "overflow beside a 0": (lambda: fp32([0, 2**40, 2**40], b""), "impossible shape"),
    "more than a tensor may hold": (lambda: fp32([MAX_ELEMENTS, 2], b""), "impossible shape"),
    "nine dimensions": (lambda: fp32([1] * 9, b"x" * 4), "at most 8 dimensions"),
    "raw and typed": (lambda: fp32([1], b"x" * 4, contents={"fp32_contents": [1.0]}), "raw and typed"),
    "raw and empty typed": (lambda: fp32([1], b"x" * 4, contents={}), "raw and typed"),
    "raw for one of two": (lambda: _second(fp32([1], b"x" * 4)), "2 inputs and 1 raw"),
    "raw for nothing": (lambda: messages.ModelInferRequest(raw_input_contents=[b""]), "0 inputs and 1 raw"),
    "an input twice": (lambda: _twice(fp32([1], b"x" * 4)), "stands twice"),
    "100,000 inputs": (lambda: many_inputs(100_000), "at most 64"),
    "100,000 outputs": (lambda: _outputs(100_000), "at most 64"),
    "a BOOL that is neither": (lambda: fp32([2], b"\1\2", datatype="BOOL"), "a byte that is neither 0 nor 1"),
    "no datatype": (lambda: fp32([1], b"x" * 4, datatype=""), "has the datatype ''"),
    "a datatype of another spelling": (lambda: fp32([1], b"x" * 4, datatype="fp32"), "has the datatype 'fp32'"),
    "BF16": (lambda: fp32([1], b"xx", datatype="BF16"), "numpy has no such type"),
    "typed in another list": (lambda: _typed("FP32", [1], {"fp64_contents": [1.0]}), "Fill fp32_contents"),
    "typed in two lists": (
        lambda: _typed("FP32", [1], {"fp32_contents": [1.0], "int_contents": [1]}),
        "Fill fp32_contents",
    ),
    "too few typed": (lambda: _typed("INT64", [2], {"int64_contents": [1]}), "needs 2 elements; 1 came"),
    "typed out of range": (lambda: _typed("INT8", [1], {"int_contents": [128]}), "INT8 cannot hold"),
    "typed out of range below": (lambda: _typed("INT16", [1], {"int_contents": [-40_000]}), "INT16 cannot hold"),
    "typed out of range unsigned": (lambda: _typed("UINT8", [1], {"uint_contents": [256]}), "UINT8 cannot hold"),
    "no contents at all": (lambda: _typed("FP32", [2], {}), "needs 2 elements; 0 came"),
    "a long name": (lambda: fp32([2], b"", name="n" * 10_000), "Tensor '" + "n" * 80 + "' of"),
}


def _typed(datatype: str, shape: list[int], contents: dict) -> messages.ModelInferRequest:
    made = messages.ModelInferRequest(model_name="m")
    made.inputs.add(name="x", datatype=datatype, shape=shape, contents=contents)
    return made


def _second(made: messages.ModelInferRequest) -> messages.ModelInferRequest:
    made.inputs.add(name="y", datatype="FP32", shape=[1])
    return made


def _twice(made: messages.ModelInferRequest) -> messages.ModelInferRequest:
    made.inputs.append(made.inputs[0])
    made.raw_input_contents.append(made.raw_input_contents[0])
    return made


def _outputs(count: int) -> messages.ModelInferRequest:
    made = fp32([1], b"x" * 4)
    for number in range(count):
        made.outputs.add(name=str(number))
    return made


@pytest.mark.parametrize("case", S11)
def test_s11_what_cannot_be_is_refused_in_words(case: str) -> None:
    make, sentence = S11[case]
    said = refusal(make())
    assert sentence in said
    assert len(said) < 500


@pytest.mark.parametrize(
    "message", [b"\xff" * 40, b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x3a\x80", b"\x00\x00", b"\x1a\x02\xff\xfe"]
)
def test_s11_what_is_no_message_is_refused_in_words(message: bytes) -> None:
    assert refusal(message) == "The request's bytes are no ModelInferRequest."


def test_s11_not_a_number_and_infinity_are_numbers() -> None:
    array = numpy.array([numpy.nan, numpy.inf, -numpy.inf], numpy.float32)
    for made in (raw_request("m", array), typed_request("m", "FP32", array)):
        found = requests.decode(made.SerializeToString()).inference.inputs["x"]
        numpy.testing.assert_array_equal(found, array)


def test_plans_and_beginnings_are_bounded() -> None:
    for number in range(3 * requests.MAX_PLANS):
        requests.decode(raw_request("m", numpy.zeros(2, numpy.float32), str(number)).SerializeToString())
        spec = TensorSpec(f"y{number}", "FP32", (-1,))
        answer = Answer("m", "1", "d", "s", "p", ((spec, numpy.zeros(1, numpy.float32)),), 0, 0, 0, 0)
        responses.encode(answer, "", raw=True, decode_us=0)
    assert 0 < len(requests._plans) <= requests.MAX_PLANS
    assert 0 < len(responses._beginnings) <= responses.MAX_KEPT
    requests._plans.clear()
    requests.decode(raw_request("m", numpy.zeros(2, numpy.float32), "n" * 5000).SerializeToString())
    assert not requests._plans


ARRAYS = st.sampled_from(sorted(NUMPY_TYPES)).flatmap(
    lambda kind: st.lists(st.integers(0, 4), min_size=1, max_size=4).flatmap(
        lambda shape: st.integers(0, 2**32 - 1).map(lambda seed: _random_array(kind, tuple(shape), seed))
    )
)


def _random_array(datatype: str, shape: tuple[int, ...], seed: int) -> tuple[str, numpy.ndarray]:
    rng = random.Random(seed)
    if datatype == "BYTES":
        array = numpy.empty(shape, object)
        for place in numpy.ndindex(shape):
            array[place] = rng.randbytes(rng.choice((0, 1, 5, 200)))
        return datatype, array
    dtype = NUMPY_TYPES[datatype]
    size = int(numpy.prod(shape)) * dtype.itemsize
    data = bytes(byte & 1 for byte in rng.randbytes(size)) if datatype == "BOOL" else rng.randbytes(size)
    return datatype, numpy.ndarray(shape, dtype, data)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(ARRAYS, st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_every_array_goes_there_and_back(made: tuple[str, numpy.ndarray], name: str, tensor: str) -> None:
    datatype, array = made
    request = written("m", "1", name, tensor, array, capture=False)
    assert request.inputs[0].datatype == datatype
    for _ in range(2):
        read = requests.decode(request.SerializeToString())
        found = read.inference.inputs[tensor]
        assert (found.dtype, found.shape, to_raw(found)) == (array.dtype, array.shape, to_raw(array))
        assert (read.id, read.raw, read.inference.capture) == (name, True, False)
    spec = TensorSpec(tensor, datatype, tuple(size or 1 for size in array.shape))
    answer = Answer("m", "1", f"sha256:{datatype}", "sample", "CPU", ((spec, array),), 1, 300, 70_000, -5, "odd", 2)
    for raw in (True, False):
        message = messages.ModelInferResponse.FromString(b"".join(responses.encode(answer, name, raw=raw, decode_us=3)))
        back = codec.decode_response(message)[tensor]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert to_raw(back) == to_raw(array) or (not raw and array.dtype.kind == "f")
        numpy.testing.assert_array_equal(back, array)
        assert (message.id, message.model_name, message.model_version) == (name or "sample", "m", "1")
        said = {key: value for key, value in message.parameters.items() if key.endswith("_us")}
        assert {key: value.int64_param for key, value in said.items()} == {
            "queue_us": 1, "copy_us": 5, "features_us": 300, "infer_us": 70_000, "total_us": 0,
        }  # fmt: skip
        assert message.parameters["guard"].string_param == "odd"
        assert message.parameters["sample_id"].string_param == "sample"


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_the_wire_format_is_protobufs(number: int, content: bytes) -> None:
    read = messages.StatisticDuration.FromString(b"\x08" + wire_format.varint(number))
    assert read.count == number
    raw = wire_format.field(7, content)
    made = messages.ModelInferRequest(raw_input_contents=[content], id="i", model_name="m")
    assert messages.ModelInferRequest.FromString(raw).raw_input_contents[0] == content
    assert wire_format.take_apart(made.SerializeToString(), 3, 7) == (b"\x0a\x01m", b"i", [content])


def cut_messages() -> Iterator[bytes]:
    whole = messages.ModelInferRequest(model_name="m", id="i", raw_input_contents=[b"x" * 200]).SerializeToString()
    for end in range(1, len(whole)):
        yield whole[:end]


def test_a_message_that_is_cut_off_is_never_taken_apart_wrongly() -> None:
    for message in cut_messages():
        parts = wire_format.take_apart(message, 3, 7)
        try:
            read: Any = messages.ModelInferRequest.FromString(message)
        except DecodeError:
            assert parts is None
            continue
        assert parts is not None
        assert (parts[1].decode(), parts[2]) == (read.id, list(read.raw_input_contents))

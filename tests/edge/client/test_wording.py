"""A request's bytes mean what protobuf would have written, for every datatype."""

from __future__ import annotations

from types import ModuleType

import numpy
import pytest

from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.client import wording
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.serving import requests


def raw(array: numpy.ndarray) -> bytes:
    """As the protocol says: elements little-endian one behind the other; texts each behind four bytes of length."""
    if not array.dtype.hasobject:
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in array.ravel())


@pytest.mark.parametrize("datatype", list(NUMPY_TYPES))
def test_it_is_the_message_that_protobuf_writes_and_the_server_reads(datatype: str, kit: ModuleType) -> None:
    values = kit.echo_values(datatype)
    given = {"x": values, "y": values[:1]}
    for _ in range(2):  # the second time from what was kept
        made = wording.request("m", "1.0.0", "sample", given, (), capture=False, timeout_us=0)
        expected = messages.ModelInferRequest(model_name="m", model_version="1.0.0", id="sample")
        expected.parameters["hybridge_capture"].bool_param = False
        for name, array in given.items():
            expected.inputs.add(name=name, datatype=datatype, shape=array.shape)
            expected.raw_input_contents.append(raw(array))
        assert messages.ModelInferRequest.FromString(made) == expected
    read = requests.decode(made)
    assert (read.id, read.inference.model, read.inference.capture) == ("sample", "m", False)
    for name, array in given.items():
        assert numpy.array_equal(read.inference.inputs[name], array, equal_nan=values.dtype.kind == "f")


def test_a_limit_and_the_wanted_outputs_are_in_it_and_big_endian_arrays_are_turned() -> None:
    values = numpy.arange(6, dtype=">f4").reshape(2, 3)
    made = wording.request("m", "", "", {"x": values}, ("a", "b"), capture=True, timeout_us=1_500_000)
    read = requests.decode(made)
    assert read.timeout_s == 1.5
    assert read.inference.outputs == ("a", "b")
    assert numpy.array_equal(read.inference.inputs["x"], values)
    assert read.inference.sample_id == ""


def test_arrays_that_are_no_block_of_memory_are_sent_as_they_look() -> None:
    values = numpy.arange(24, dtype="<f4").reshape(4, 6)[::2, ::3].T
    read = requests.decode(wording.request("m", "", "", {"x": values}, (), capture=True, timeout_us=0))
    assert numpy.array_equal(read.inference.inputs["x"], values)

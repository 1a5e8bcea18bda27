"""What a client of ours writes and reads; the server's side is in ``requests`` and ``responses``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving.contents import from_raw, from_typed, layout, named, to_raw
from hybridge_edge.serving.parameters import CAPTURE

_NOTHING: Mapping[int, bytes | memoryview] = {}


def encode_request(
    model: str, version: str, sample_id: str, inputs: Sequence[tuple[str, Array]], capture: bool
) -> messages.ModelInferRequest:
    """A request with raw tensors; arrays of bytes or text go as BYTES.

    Raises:
        InvalidInput: an array's type is one the protocol has no name for.
    """
    request = messages.ModelInferRequest(model_name=model, model_version=version, id=sample_id)
    if not capture:
        request.parameters[CAPTURE].bool_param = False
    for name, array in inputs:
        datatype, little = named(name, array)
        request.inputs.add(name=name, datatype=datatype, shape=little.shape)
        request.raw_input_contents.append(to_raw(little))
    return request


def decode_response(
    response: messages.ModelInferResponse, aside: Mapping[int, bytes | memoryview] = _NOTHING
) -> dict[str, Array]:
    """A response's outputs by name, raw or typed. Raises InvalidInput where it contradicts itself.

    Args:
        aside: raw contents that came another way, by index; the arrays are views of them.
    """
    raw: Sequence[Any] = response.raw_output_contents
    if aside:
        inline = iter(raw)
        raw = [aside[at] if at in aside else next(inline, b"") for at in range(len(raw) + len(aside))]
    if raw and len(raw) != len(response.outputs):
        raise InvalidInput("The response has other numbers of outputs and raw contents.")
    arrays = {}
    for place, tensor in enumerate(response.outputs):
        wanted = layout(tensor.name, tensor.datatype, tensor.shape)
        arrays[tensor.name] = from_raw(wanted, raw[place]) if raw else from_typed(wanted, tensor.contents)
    return arrays

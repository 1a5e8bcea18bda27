"""Between the protocol's messages and numpy. Everything a stranger can write in a message is checked here first.

Parameters of ours, all optional. In a request: ``hybridge_capture`` (bool, default true), whether the sample may be
kept. In a response: ``sample_id``, ``provider``, ``package_digest`` (strings), ``queue_us``, ``features_us``,
``infer_us``, ``total_us`` (int64, microseconds), and ``guard`` (string) where a guard of the package flags the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy

from hybridge_edge.arrays import DATATYPES, NUMPY_TYPES
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.tensors import ITEM_BYTES, MAX_DIMENSIONS, MAX_ELEMENTS
from hybridge_edge.engine import Array
from hybridge_edge.serving.service import Answer, Inference

MAX_TENSORS = 64
CAPTURE = "hybridge_capture"
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""The list of InferTensorContents that holds a datatype; FP16 has none."""


def decode(request: messages.ModelInferRequest) -> Inference:
    """A request as the service takes it; raw tensors are views of the message's bytes.

    Raises:
        InvalidInput: with the tensor and what is wrong.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    if len(inputs) > MAX_TENSORS or len(request.outputs) > MAX_TENSORS:
        raise InvalidInput(f"A request has at most {MAX_TENSORS} inputs and outputs.")
    if raw and len(raw) != len(inputs):
        raise InvalidInput(f"The request has {len(inputs)} inputs and {len(raw)} raw contents.", "Send one for each.")
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(inputs):
        if tensor.name in arrays:
            raise InvalidInput(f"Input {tensor.name[:80]!r} stands twice in the request.", "Send it once.")
        arrays[tensor.name] = _array(tensor, raw[index] if raw else None)
    return Inference(
        model=request.model_name,
        version=request.model_version,
        sample_id=request.id,
        inputs=arrays,
        outputs=tuple(output.name for output in request.outputs),
        capture=_capture(request),
    )


def encode(answer: Answer, raw: bool) -> messages.ModelInferResponse:
    """A response, its tensors raw where the request's were, or where a datatype has no typed list."""
    response = messages.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.sample_id)
    parameters = response.parameters
    parameters["sample_id"].string_param = answer.sample_id
    parameters["provider"].string_param = answer.provider
    parameters["package_digest"].string_param = answer.digest
    parameters["queue_us"].int64_param = answer.queue_us
    parameters["features_us"].int64_param = answer.features_us
    parameters["infer_us"].int64_param = answer.infer_us
    parameters["total_us"].int64_param = answer.total_us
    if answer.guard:
        parameters["guard"].string_param = answer.guard
    raw = raw or any(spec.datatype not in _CONTENTS for spec, _ in answer.outputs)
    for spec, array in answer.outputs:
        tensor = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(array.tobytes())
        else:
            getattr(tensor.contents, _CONTENTS[spec.datatype]).extend(array.ravel().tolist())
    return response


def encode_request(
    model: str, version: str, sample_id: str, inputs: Sequence[tuple[str, Array]], capture: bool
) -> messages.ModelInferRequest:
    """A client's request with raw tensors. Raises InvalidInput for an array type the protocol has no name for."""
    request = messages.ModelInferRequest(model_name=model, model_version=version, id=sample_id)
    if not capture:
        request.parameters[CAPTURE].bool_param = False
    for name, array in inputs:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        kind = DATATYPES.get(little.dtype)
        if kind is None:
            raise InvalidInput(f"Input {name!r} has the type {array.dtype}.", f"Use one of {', '.join(NUMPY_TYPES)}.")
        request.inputs.add(name=name, datatype=kind, shape=little.shape)
        request.raw_input_contents.append(little.tobytes())
    return request


def decode_response(response: messages.ModelInferResponse) -> dict[str, Array]:
    """A response's outputs by name, raw or typed. Raises InvalidInput where it contradicts itself."""
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise InvalidInput("The response has other numbers of outputs and raw contents.")
    return {tensor.name: _array(tensor, raw[index] if raw else None) for index, tensor in enumerate(response.outputs)}


def _capture(request: messages.ModelInferRequest) -> bool:
    if CAPTURE not in request.parameters:
        return True
    value = request.parameters[CAPTURE]
    if value.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidInput(f"The parameter {CAPTURE} is not a bool.", "Send bool_param.")
    return bool(value.bool_param)


def _array(tensor: Any, raw: bytes | None) -> Array:
    """One tensor; ``raw`` is None where its contents are typed."""
    name, kind = tensor.name[:80], tensor.datatype
    dtype = NUMPY_TYPES.get(kind)
    if dtype is None:
        raise InvalidInput(f"Tensor {name!r} has the datatype {kind[:20]!r}.", f"Use one of {', '.join(NUMPY_TYPES)}.")
    shape = tuple(tensor.shape)
    # Dimensions are bounded one by one first: their product is a Python integer, but need not be a large one.
    if len(shape) > MAX_DIMENSIONS or not all(0 <= size <= MAX_ELEMENTS for size in shape):
        raise InvalidInput(f"Tensor {name!r} has an impossible shape.", f"Send at most {MAX_DIMENSIONS} dimensions.")
    count = prod(shape)
    if raw is not None:
        if tensor.HasField("contents"):
            raise InvalidInput(f"Tensor {name!r} is sent raw and typed.", "Send one of the two.")
        if len(raw) != count * ITEM_BYTES[kind]:
            raise InvalidInput(
                f"Tensor {name!r} of {kind} {list(shape)} needs {count * ITEM_BYTES[kind]} bytes; {len(raw)} came."
            )
        return numpy.frombuffer(raw, dtype).reshape(shape)
    return _typed(tensor, name, kind, dtype, shape, count)


def _typed(tensor: Any, name: str, kind: str, dtype: numpy.dtype[Any], shape: tuple[int, ...], count: int) -> Array:
    field = _CONTENTS.get(kind)
    if field is None:
        raise InvalidInput(f"Tensor {name!r} is of {kind}, which the protocol sends raw only.", "Send it raw.")
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if any(other != field for other in filled):
        raise InvalidInput(f"Tensor {name!r} of {kind} fills {filled[0]}.", f"Fill {field}.")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InvalidInput(f"Tensor {name!r} of shape {list(shape)} needs {count} elements; {len(values)} came.")
    try:
        array = numpy.fromiter(values, dtype, count)
    except (OverflowError, ValueError):
        raise InvalidInput(f"Tensor {name!r} has an element that {kind} cannot hold.") from None
    return array.reshape(shape)

"""From the bytes of a ModelInferRequest to a request of the service. Everything a stranger can write is checked here.

Callers ask the same of the same model again and again: of two such requests only the id and the tensors' bytes differ.
So a request that was read whole and found good leaves a plan behind, filed under the bytes of everything else in it.
A request with the same bytes is taken apart at its seams, and only its id and the lengths of its tensors are left to
check. What has no plan is read whole. tests/edge/serving/test_fuzz.py holds the two ways to the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving import parameters
from hybridge_edge.serving.contents import SHOWN, Layout, from_raw, from_typed, in_order, layout
from hybridge_edge.serving.parameters import Parameters
from hybridge_edge.serving.service import Inference
from hybridge_edge.serving.wire_format import take_apart

MAX_TENSORS = 64
MAX_ID_BYTES = 1024
MAX_PLANS = 256
MAX_PLAN_BYTES = 4096
"""Of the bytes a plan is filed under; longer requests are read whole each time."""
_ID = messages.ModelInferRequest.ID_FIELD_NUMBER
_RAW = messages.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
_NOTHING: Mapping[int, bytes] = {}
_NO_MESSAGE = "The request's bytes are no ModelInferRequest."


class Request(NamedTuple):
    """A request as a transport hands it on; a tuple, since it is made for each.

    Attributes:
        id: the caller's, comes back in the answer. raw: its tensors came raw, so the answer's go raw.
        timeout_s: the caller's own limit in seconds, None where it set none.
    """

    inference: Inference
    id: str
    raw: bool
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class _Plan:
    model: str
    version: str
    names: tuple[str, ...]
    layouts: tuple[Layout, ...]
    outputs: tuple[str, ...]
    parameters: Parameters


_plans: dict[bytes, _Plan] = {}


def decode(message: bytes, beside: Mapping[int, bytes] = _NOTHING) -> Request:
    """Read a serialized ModelInferRequest; raw tensors are views of copies of its parts.

    Args:
        beside: raw contents that came another way, by the index of their input; the message has the others' only.

    Raises:
        InvalidInput: with the tensor and what is wrong.
    """
    parts = take_apart(message, _ID, _RAW)
    if parts is None:
        return _whole(message, beside)[0]
    rest, name, raw = parts
    if beside:
        raw = in_order(raw, beside)
    plan = _plans.get(rest)
    if plan is not None and len(raw) == len(plan.layouts):
        return _planned(plan, name, raw)
    request, plan = _whole(message, beside)
    if request.raw and len(rest) <= MAX_PLAN_BYTES:
        if len(_plans) >= MAX_PLANS:
            _plans.clear()
        _plans[rest] = plan
    return request


def id_of(message: bytes) -> str:
    """The id of a request that may be no good otherwise, "" where it has none that can be read."""
    parts = take_apart(message, _ID, _RAW)
    name = parts[1] if parts is not None else b""
    return name.decode(errors="replace") if len(name) <= MAX_ID_BYTES else ""


def _planned(plan: _Plan, name: bytes, raw: list[bytes]) -> Request:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise InvalidInput(_NO_MESSAGE) from None
    arrays = dict(zip(plan.names, map(from_raw, plan.layouts, raw), strict=True))
    return _request(plan, text, arrays, raw=True)


def _request(plan: _Plan, name: str, arrays: dict[str, Array], *, raw: bool) -> Request:
    if len(name) > MAX_ID_BYTES:
        raise InvalidInput("The request's id is too long.", f"Send at most {MAX_ID_BYTES} characters.")
    wanted = plan.parameters
    inference = Inference(plan.model, plan.version, name, arrays, plan.outputs, wanted.capture, wanted.sequence)
    return Request(inference, name, raw, wanted.timeout_s)


def _whole(message: bytes, beside: Mapping[int, bytes] = _NOTHING) -> tuple[Request, _Plan]:
    """Read all of it, checking all of it; the plan is of use to others only where the tensors are raw."""
    try:
        read = messages.ModelInferRequest.FromString(message)
    except DecodeError:
        raise InvalidInput(_NO_MESSAGE) from None
    inputs = read.inputs
    raw: Sequence[bytes] = read.raw_input_contents
    if beside:
        raw = in_order(raw, beside)
    if len(inputs) > MAX_TENSORS or len(read.outputs) > MAX_TENSORS:
        raise InvalidInput(f"A request has at most {MAX_TENSORS} inputs and outputs.")
    if raw and len(raw) != len(inputs):
        raise InvalidInput(f"The request has {len(inputs)} inputs and {len(raw)} raw contents.", "Send one for each.")
    arrays: dict[str, Array] = {}
    layouts = []
    for place, tensor in enumerate(inputs):
        name = tensor.name
        if name in arrays:
            raise InvalidInput(f"Input {name[:SHOWN]!r} stands twice in the request.", "Send it once.")
        if tensor.parameters:
            parameters.check_tensor(name, tensor.parameters)
        wanted = layout(name, tensor.datatype, tensor.shape)
        if raw and tensor.HasField("contents"):
            raise InvalidInput(f"Tensor {wanted.name!r} is sent raw and typed.", "Send one of the two.")
        arrays[name] = from_raw(wanted, raw[place]) if raw else from_typed(wanted, tensor.contents)
        layouts.append(wanted)
    for output in read.outputs:
        if output.parameters:
            parameters.check_tensor(output.name, output.parameters)
    plan = _Plan(
        model=read.model_name,
        version=read.model_version,
        names=tuple(arrays),
        layouts=tuple(layouts),
        outputs=tuple(output.name for output in read.outputs),
        parameters=parameters.read(read.parameters),
    )
    return _request(plan, read.id, arrays, raw=bool(raw)), plan
